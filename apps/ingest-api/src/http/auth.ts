import type { Database, Scope } from 'db-schema';
import type { Request, RequestHandler, Response } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { describeError, IngestError, isDatabaseUnavailable } from '../errors.ts';
import { recordAudit } from '../runs/history.ts';
import { allows, covers, type Principal, type Principals } from '../runs/tokens.ts';
import type { Refusal } from './limits.ts';
import { requireSameOrigin, sessionIdOf } from './session.ts';

const BEARER = /^Bearer ([A-Za-z0-9_-]{1,200})$/;

/**
 * Lets a request in only with a valid token, and keeps who it is in `res.locals.principal`. The token comes
 * in the header; the status page shows the session that it has begun with one, in a cookie. The header goes first.
 * `refuse` counts who is not let in, and nobody else.
 */
export function authenticate(principals: Principals, refuse: Refusal): RequestHandler {
  return async (req, res, next) => {
    const { authorization } = req.headers;
    const kind = authorization === undefined ? 'session' : 'token';
    const secret = authorization === undefined ? sessionIdOf(req) : BEARER.exec(authorization)?.[1];
    const principal = secret === undefined ? undefined : await principals.find(kind, secret);
    if (principal === undefined) {
      throw refuse(
        req,
        secret === undefined
          ? 'Send the header "Authorization: Bearer TOKEN"; `ingest-api token create` makes a token.'
          : `The ${kind} is unknown, expired or ${kind === 'token' ? 'revoked; ask the operators for a new one' : 'ended; sign in again'}.`,
      );
    }
    res.locals.principal = principal;
    if (kind === 'session') requireSameOrigin(req);
    next();
  };
}

export function principalOf(res: Response): Principal {
  return res.locals.principal;
}

/** @throws a 404 for a model that the token does not cover, as if it did not exist; a 403 for a lesser scope. */
export function requireAccess(res: Response, scope: Scope, model: string): void {
  const principal = principalOf(res);
  if (!covers(principal, model)) {
    res.locals.denied = `model ${model}`;
    throw new IngestError('not_found', `There is no model "${model}" for this token.`);
  }
  requireScope(res, scope);
}

/** @throws a 403 for a lesser scope. */
export function requireScope(res: Response, scope: Scope): void {
  const principal = principalOf(res);
  if (allows(principal, scope)) return;
  throw new IngestError(
    'forbidden',
    `The token "${principal.name}" may not ${scope}; it needs the scope "${scope}".`,
  );
}

/**
 * For a request that takes long: whether whoever it was let in for would be let in now. When the database cannot be asked
 * the request goes on; what it then does to the database fails by itself.
 *
 * @throws a 401 when the token was revoked or has expired meanwhile, or the session has ended.
 */
export async function requireStillValid(principals: Principals, req: Request): Promise<void> {
  const principal = principalOf(req.res as Response);
  const current = await principals.current(principal).catch((error: unknown) => {
    if (isDatabaseUnavailable(error)) return principal;
    throw error;
  });
  if (current !== undefined) return;
  throw new IngestError(
    'unauthenticated',
    `The token "${principal.name}" was revoked or has expired while it sent this; what was acknowledged is kept. Ask the operators for a new one.`,
  );
}

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
