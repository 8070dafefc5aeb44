import type { RequestHandler } from 'express';

/**
 * For every answer: nothing of it may run, be framed, be guessed to be another type, or be kept. The status
 * page's routes set a policy of their own. Where this service itself speaks TLS, browsers ask for nothing else of this
 * host for a year (RFC 6797; behind a proxy that is the proxy's to say).
 */
export const securityHeaders: RequestHandler = (req, res, next) => {
  res.set({
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
  });
  if ('encrypted' in req.socket) res.set('Strict-Transport-Security', 'max-age=31536000');
  next();
};
