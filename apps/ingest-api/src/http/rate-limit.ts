import type { RequestHandler } from 'express';
import { ipKeyGenerator, MemoryStore, type Options, rateLimit } from 'express-rate-limit';
import { IngestError } from '../errors.ts';
import { principalOf } from './authenticate.ts';

const MINUTE_MS = 60_000;

/** One token's requests, told in `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers-08). */
export function limitRequests(ratePerMinute: number): RequestHandler {
  return rateLimit({
    windowMs: MINUTE_MS,
    limit: ratePerMinute,
    identifier: 'token',
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    keyGenerator: (_req, res) => String(principalOf(res as never).tokenId),
    handler: (req, _res, next) => {
      const { resetTime } = (req as typeof req & { rateLimit: { resetTime?: Date } }).rateLimit;
      next(tooMany('This token has sent too many requests in a minute', resetTime));
    },
  });
}

/**
 * Addresses that keep sending bad tokens are sent away before the database is asked. Only requests that were
 * answered 401 count; the library's own way to do so also counts every request that is still under way.
 */
export function limitFailedLogins(failedLoginsPerMinute: number): RequestHandler {
  const failures = new MemoryStore();
  failures.init({ windowMs: MINUTE_MS } as Options);
  return async (req, res, next) => {
    const address = ipKeyGenerator(req.ip ?? '');
    const seen = await failures.get(address);
    if (seen !== undefined && seen.totalHits >= failedLoginsPerMinute)
      throw tooMany('From this address came too many requests without a valid token', seen.resetTime);
    res.once('finish', () => {
      if (res.statusCode === 401) void failures.increment(address);
    });
    next();
  };
}

function tooMany(what: string, resetTime: Date | undefined): IngestError {
  const waitMs = resetTime === undefined ? MINUTE_MS : resetTime.getTime() - Date.now();
  const retryAfterSeconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new IngestError('rate_limited', `${what}; try again in ${retryAfterSeconds} s.`, {
    retryAfterSeconds,
  });
}
