import type { IncomingMessage, Server } from 'node:http';
import type { Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';
import { IngestError } from '../errors.ts';
import type { Principal } from '../runs/tokens.ts';

const MINUTE_MS = 60_000;

/** One token's requests, shown in `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers-08). */
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
      next(tooMany('This token has sent too many requests in a minute', resetTime));
    },
  });
}

/** What to answer to a request without a valid token or session: the 401 of `detail`, or a 429. It is counted. */
export type Refusal = (req: Request, detail: string) => IngestError;

/**
 * An address that keeps sending bad tokens is answered 429. Only those requests are counted and refused: behind the same
 * proxy others have valid tokens.
 */
export function limitRefusals(perMinute: number): Refusal {
  const count = counter();
  return (req, detail) => {
    const { hits, resetTime } = count(ipKeyGenerator(req.ip ?? ''));
    return hits > perMinute
      ? tooMany('From this address came too many requests without a valid token', resetTime)
      : new IngestError('unauthenticated', detail);
  };
}

/** @returns what throws a 429 when a token does something more often than that. */
export function limitTokens(perMinute: number): (principal: Principal) => void {
  const count = counter();
  return ({ tokenId }) => {
    const { hits, resetTime } = count(String(tokenId));
    if (hits > perMinute) throw tooMany('With this token somebody has signed in too often', resetTime);
  };
}

/**
 * Counts by key, each in its own minute. (The library's MemoryStore answers with an object that the next hit changes: of
 * ten concurrent requests, all would be the tenth.)
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

interface MinimumRate {
  readonly minBytesPerSecond: number;
  /** The rate is taken over this long. */
  readonly windowMs: number;
}

/**
 * Cuts a request whose body trickles: a byte now and then keeps every idle time-out away and a connection,
 * a lock and a slot busy for ever. What has come in is kept, and a real client goes on from there.
 */
export function demandMinimumRate(server: Server, { minBytesPerSecond, windowMs }: MinimumRate): void {
  const leastBytes = (minBytesPerSecond * windowMs) / 1000;
  const watch = (req: IncomingMessage) => {
    const { headers, socket } = req;
    if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined) return;
    let seenBytes = socket.bytesRead;
    const timer = setInterval(() => {
      const cameBytes = socket.bytesRead - seenBytes;
      seenBytes = socket.bytesRead;
      // Bytes that wait for us are no fault of the client's: a disk or a lock is slow.
      const isOurTurn = req.readableLength > 0;
      if (req.complete) clearInterval(timer);
      else if (cameBytes < leastBytes && !isOurTurn) socket.destroy();
    }, windowMs);
    timer.unref();
    req.once('close', () => clearInterval(timer));
  };
  server.on('request', watch).on('checkContinue', watch);
}
