import type { Database } from 'db-schema';
import type { RequestHandler } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import { recordAudit } from '../runs/audit.ts';

const WINDOW_MS = 60_000;
/** Whoever knocks on every door shall not fill the disk: so many a minute are kept, the others counted. */
const KEPT_A_WINDOW = 120;

/** Keeps every request that was not allowed: who, what, and from where. A failure to keep it is logged, not answered. */
export function auditDenials(db: Kysely<Database>, log: Logger): RequestHandler {
  let windowStartMs = 0;
  let kept = 0;
  let leftOut = 0;
  return (req, res, next) => {
    res.once('finish', () => {
      const { problem, denied, principal, requestId } = res.locals;
      if (denied === undefined && problem !== 'unauthenticated' && problem !== 'forbidden') return;
      const nowMs = Date.now();
      if (nowMs - windowStartMs > WINDOW_MS) {
        windowStartMs = nowMs;
        kept = 0;
      }
      if (kept >= KEPT_A_WINDOW) {
        leftOut += 1;
        return;
      }
      kept += 1;
      const detail = {
        problem: denied === undefined ? problem : 'not_covered',
        method: req.method,
        path: req.originalUrl.split('?')[0]?.slice(0, 300),
        address: req.ip ?? null, // the client, where a trusted proxy says who that is
        requestId,
        ...(leftOut === 0 ? {} : { othersNotKept: leftOut }),
      };
      leftOut = 0;
      recordAudit(db, { actor: principal?.name ?? 'nobody', action: 'deny', detail }).catch(
        (error: unknown) =>
          log.warn({ err: describeError(error), ...detail }, 'a denial could not be kept in the audit log'),
      );
    });
    next();
  };
}
