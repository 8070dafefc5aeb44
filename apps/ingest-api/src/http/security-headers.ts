import type { RequestHandler } from 'express';

/**
 * For every answer: nothing of it may run, be framed, be guessed to be another type, or be kept. The status
 * page's routes set a policy of their own.
 */
export const securityHeaders: RequestHandler = (_req, res, next) => {
  res.set({
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
  });
  next();
};
