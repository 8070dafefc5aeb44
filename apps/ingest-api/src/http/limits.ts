import type { Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';
import { IngestError } from '../errors.ts';
import type { Principal } from '../runs/tokens.ts';

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;

/**
 * Limits the requests of each token; the `RateLimit` headers show it
 * (draft-ietf-httpapi-ratelimit-headers-08).
 */
export function limitRequests(ratePerMinute: number): RequestHandler {
  return rateLimit({
    windowMs: MINUTE_MS,
    limit: ratePerMinute,
    identifier: 'token',
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    keyGenerator: (_req, res) => String((res as Response).locals.principal.tokenId),
    handler: (req, _res, next) => {
      const { resetTime } = (req as typeof req & { rateLimit: { resetTime?: Date } }).rateLimit;
      next(tooMany(`This token sent more than ${ratePerMinute} requests in a minute`, resetTime));
    },
  });
}

/** One token may always have this many requests under way. */
const LEAST_UNDER_WAY = 16;
/** A PATCH may last for minutes: 60 jobs with 4 transfers each fit, at the default of 1,000 connections. */
const SHARE_OF_CONNECTIONS = 1 / 4;

/**
 * Answers 429 to a token that has this many requests under way: what one token leaves open, by sending or reading
 * slowly, must leave connections to the others, and to the probes.
 */
export function limitUnderWay(maxConnections: number): RequestHandler {
  const most = Math.max(LEAST_UNDER_WAY, Math.floor(maxConnections * SHARE_OF_CONNECTIONS));
  const hold = heldByTokens(most);
  return (_req, res: Response, next) => {
    if (!hold(res))
      throw tooMany(
        `This token has ${most} requests that are not answered yet`,
        new Date(Date.now() + SECOND_MS),
      );
    next();
  };
}

/** @returns a function that counts an answer for its token until it has ended, or is false when `most` are counted already. */
export function heldByTokens(most: number): (res: Response) => boolean {
  const held = new Map<number, number>();
  return (res) => {
    const { tokenId } = res.locals.principal;
    const count = held.get(tokenId) ?? 0;
    if (count >= most) return false;
    held.set(tokenId, count + 1);
    res.once('close', () => {
      const left = (held.get(tokenId) ?? 1) - 1;
      if (left > 0) held.set(tokenId, left);
      else held.delete(tokenId);
    });
    return true;
  };
}

/** Counts a request without a valid token or session. @returns its answer: a 401 with `detail`, or a 429. */
export type Refusal = (req: Request, detail: string) => IngestError;

/**
 * Answers 429 to an address that sends too many requests without a valid token. Only those requests are
 * counted and refused: other clients behind the same proxy have valid tokens.
 */
export function limitRefusals(perMinute: number): Refusal {
  const count = counter();
  return (req, detail) => {
    const { hits, resetTime } = count(ipKeyGenerator(req.ip ?? ''));
    return hits > perMinute
      ? tooMany(
          `This address sent more than ${perMinute} requests without a valid token in a minute`,
          resetTime,
        )
      : new IngestError('unauthenticated', detail);
  };
}

/** @returns a function that throws a 429 when a token signs in more often. */
export function limitSignIns(perMinute: number): (principal: Principal) => void {
  const count = counter();
  return ({ tokenId }) => {
    const { hits, resetTime } = count(String(tokenId));
    if (hits > perMinute)
      throw tooMany(`This token was used to sign in more than ${perMinute} times in a minute`, resetTime);
  };
}

/**
 * Counts per key and minute. (The MemoryStore of express-rate-limit returns an object that the next hit
 * changes: of ten concurrent requests, each would see the count of the tenth.)
 */
function counter(): (key: string) => { readonly hits: number; readonly resetTime: Date } {
  const windows = new Map<string, { hits: number; readonly resetMs: number }>();
  let sweepMs = 0;
  return (key) => {
    const nowMs = Date.now();
    if (nowMs >= sweepMs) {
      for (const [other, { resetMs }] of windows) if (nowMs >= resetMs) windows.delete(other);
      sweepMs = nowMs + MINUTE_MS;
    }
    const before = windows.get(key);
    const window =
      before === undefined || nowMs >= before.resetMs ? { hits: 0, resetMs: nowMs + MINUTE_MS } : before;
    windows.set(key, window);
    window.hits += 1;
    return { hits: window.hits, resetTime: new Date(window.resetMs) };
  };
}

function tooMany(what: string, resetTime: Date | undefined): IngestError {
  const waitMs = resetTime === undefined ? MINUTE_MS : resetTime.getTime() - Date.now();
  const retryAfterSeconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new IngestError('rate_limited', `${what}; try again in ${retryAfterSeconds} s.`, {
    retryAfterSeconds,
  });
}
