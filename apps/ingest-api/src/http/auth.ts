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
 * Accepts only requests with a valid token or session, and puts its owner into `res.locals.principal`.
 * Programs send the token in the header; the status page sends the cookie of its session. With a header, the
 * cookie is ignored. `refuse` counts refused requests only.
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

/**
 * @throws a 404 for a model that the token does not cover, as if it did not exist; a 403 when the token lacks
 *   the scope.
 */
export function requireAccess(res: Response, scope: Scope, model: string): void {
  const principal = principalOf(res);
  if (!covers(principal, model)) {
    res.locals.denied = `model ${model}`;
    throw new IngestError(
      'not_found',
      `There is no model "${model}" that this token covers; check the name, or ask the operators.`,
    );
  }
  requireScope(res, scope);
}

/** @throws a 403 when the token lacks the scope. */
export function requireScope(res: Response, scope: Scope): void {
  const principal = principalOf(res);
  if (allows(principal, scope)) return;
  throw new IngestError(
    'forbidden',
    `The token "${principal.name}" lacks the scope "${scope}", which this request needs.`,
  );
}

/**
 * Checks again, during a long request, that its token or session is still valid. When the database cannot be
 * asked, the request continues: its own writes to the database fail anyway.
 *
 * @throws a 401 when the token was revoked or has expired, or the session has ended.
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
    `The token "${principal.name}" was revoked or expired, or its session ended, while the request was sending. Acknowledged bytes are kept. Ask the operators for a new token.`,
  );
}

const WINDOW_MS = 60_000;
/**
 * Denials per window that the audit log keeps: of each token, and of all requests without a valid token
 * together.
 */
const MOST_KEPT = 60;

interface Budget {
  windowStartMs: number;
  kept: number;
  /** Denials since the last one that was kept; the next one that is kept has their number. */
  leftOut: number;
}

/**
 * Writes denied requests to the audit log: who, what, from where. Each token has a budget of its own, and
 * requests without a valid token share one: a flood of them neither fills the disk nor displaces the denials
 * of a real token. When the write fails, that is logged; the answer stays the same.
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
      if (denial === 'rate_limited' || budget.kept >= MOST_KEPT) {
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
        address: req.ip ?? null, // that of the client, when a trusted proxy names it
        requestId,
        ...(leftOut === 0 ? {} : { othersNotKept: leftOut }),
      };
      recordAudit(db, { actor: principal?.name ?? 'nobody', action: 'deny', detail }).catch(
        (error: unknown) =>
          log.warn(
            { err: describeError(error), ...detail },
            'a denial could not be written to the audit log',
          ),
      );
    });
    next();
  };
}

/**
 * Why the request was denied. `rate_limited`: too many requests without a valid token; they are counted only.
 */
function denialOf({ locals: { problem, denied, principal } }: Response): string | undefined {
  if (denied !== undefined) return 'not_covered';
  if (problem === 'unauthenticated' || problem === 'forbidden') return problem;
  return problem === 'rate_limited' && principal === undefined ? problem : undefined;
}
