import type { Database } from 'db-schema';
import type { RequestHandler, Response } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import { recordAudit } from '../runs/audit.ts';

const WINDOW_MS = 60_000;
/** Denials that are kept in a window, of each token. */
const KEPT_OF_A_TOKEN = 60;
/** And of all requests together that had no valid token. */
const KEPT_OF_NOBODY = 60;

interface Budget {
  windowStartMs: number;
  kept: number;
  /** Since the last one that was kept; the next one says how many. */
  leftOut: number;
}

/**
 * Keeps who was not allowed what, and from where. Each token has a budget of its own, and requests without a valid one
 * share theirs: whoever knocks on every door neither fills the disk nor pushes the denial of a real token out. A failure
 * to keep one is logged, not answered.
 */
export function auditDenials(db: Kysely<Database>, log: Logger): RequestHandler {
  const budgets = new Map<number | 'nobody', Budget>();
  return (req, res, next) => {
    res.once('finish', () => {
      const denial = denialOf(res);
      if (denial === undefined) return;
      const { principal, requestId } = res.locals;
      const subject: number | 'nobody' = principal?.tokenId ?? 'nobody';
      const budget = budgets.get(subject) ?? { windowStartMs: 0, kept: 0, leftOut: 0 };
      budgets.set(subject, budget);
      const nowMs = Date.now();
      if (nowMs - budget.windowStartMs > WINDOW_MS) Object.assign(budget, { windowStartMs: nowMs, kept: 0 });
      const most = subject === 'nobody' ? KEPT_OF_NOBODY : KEPT_OF_A_TOKEN;
      if (denial === 'rate_limited' || budget.kept >= most) {
        budget.leftOut += 1;
        return;
      }
      const { leftOut } = budget;
      budget.kept += 1;
      budget.leftOut = 0;
      const detail = {
        problem: denial,
        method: req.method,
        path: req.originalUrl.split('?')[0]?.slice(0, 300),
        address: req.ip ?? null, // the client, where a trusted proxy says who that is
        requestId,
        ...(leftOut === 0 ? {} : { othersNotKept: leftOut }),
      };
      recordAudit(db, { actor: principal?.name ?? 'nobody', action: 'deny', detail }).catch(
        (error: unknown) =>
          log.warn({ err: describeError(error), ...detail }, 'a denial could not be kept in the audit log'),
      );
    });
    next();
  };
}

/** What was denied; `rate_limited` is one of too many requests without a valid token, which are counted only. */
function denialOf({ locals: { problem, denied, principal } }: Response): string | undefined {
  if (denied !== undefined) return 'not_covered';
  if (problem === 'unauthenticated' || problem === 'forbidden') return problem;
  return problem === 'rate_limited' && principal === undefined ? problem : undefined;
}
