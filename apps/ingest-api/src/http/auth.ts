import type { Database, Scope } from 'db-schema';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { ModelName } from 'wire';
import { z } from 'zod';
import { describeError, IngestError, isDatabaseUnavailable } from '../errors.ts';
import { recordAudit } from '../runs/history.ts';
import { allows, covers, type Principal, type Principals } from '../runs/tokens.ts';
import { readJson } from './json-body.ts';
import { limitRefusals, limitSignIns, type Refusal } from './limits.ts';
import { parseModelParam, parseRequest } from './requests.ts';

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

/**
 * The model that the address names.
 *
 * @throws a 404 for a model that the token does not cover, a 403 when the token lacks the scope.
 */
export function modelOf(req: Request, res: Response, scope: Scope): ModelName {
  const model = parseModelParam(String(req.params.model));
  requireAccess(res, scope, model);
  return model;
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

export const SESSION_COOKIE = 'ingest_session';
/**
 * Browsers accept a cookie with this prefix only with `Secure`, and only from the very host that it is for.
 */
export const SECURE_SESSION_COOKIE = `__Host-${SESSION_COOKIE}`;
/** The service ends the session after the same time (`SESSION_HOURS`). */
const COOKIE_MAX_AGE_MS = 12 * 60 * 60_000;

/** From one address, with tokens that are not valid. */
const FAILED_SIGN_INS_PER_MINUTE = 10;
/** With one valid token: each sign-in writes to the database. */
const SIGN_INS_PER_MINUTE = 60;

export const signInRequest = z.strictObject({
  token: z
    .string()
    .trim()
    .regex(/^[A-Za-z0-9_-]{1,200}$/, 'must be a token as `ingest-api token create` prints it'),
});

/**
 * The sign-in of the status page, which exchanges a token for a session. The cookie is the random id of the
 * session, never the token. A session ends at sign-out, after 12 hours, and with its token. These routes need
 * no token.
 */
export function sessionRoutes(principals: Principals, refuse: Refusal): Router {
  const router = Router();
  const refuseSignIn = limitRefusals(FAILED_SIGN_INS_PER_MINUTE);
  const countSignIn = limitSignIns(SIGN_INS_PER_MINUTE);

  router.get('/session', async (req, res) => {
    const id = sessionIdOf(req);
    const principal = id === undefined ? undefined : await principals.find('session', id);
    if (id !== undefined && principal === undefined) {
      const refusal = refuse(req, 'The session has ended; sign in again.');
      if (refusal.code === 'rate_limited') throw refusal;
      clearCookies(req, res);
    }
    sendSession(res, principal);
  });

  router.post('/session', async (req, res) => {
    requireSameOrigin(req);
    const { token } = parseRequest(signInRequest, await readJson(req, res), 'The sign-in');
    const principal = await principals.find('token', token);
    if (principal === undefined) {
      throw refuseSignIn(req, 'The token is unknown, expired or revoked; ask the operators for a new one.');
    }
    res.locals.principal = principal;
    countSignIn(principal);
    const before = sessionIdOf(req);
    if (before !== undefined) await principals.endSession(before);
    const id = await principals.beginSession(principal);
    const secure = isSecure(req);
    const name = secure ? SECURE_SESSION_COOKIE : SESSION_COOKIE;
    res.cookie(name, id, { ...ATTRIBUTES, secure, maxAge: COOKIE_MAX_AGE_MS });
    sendSession(res, principal);
  });

  router.delete('/session', async (req, res) => {
    requireSameOrigin(req);
    const id = sessionIdOf(req);
    if (id !== undefined) await principals.endSession(id);
    clearCookies(req, res);
    sendSession(res, undefined);
  });

  return router;
}

/** Scripts cannot read the cookie, and pages of other sites cannot make the browser send it. */
const ATTRIBUTES = { httpOnly: true, sameSite: 'strict', path: '/' } as const;

/**
 * The id in the cookie. Over HTTPS only the cookie with the prefix counts: a page over plain HTTP can set the
 * other one.
 */
export function sessionIdOf(req: Request): string | undefined {
  const secured = cookie(req, SECURE_SESSION_COOKIE);
  return secured !== undefined || isSecure(req) ? secured : cookie(req, SESSION_COOKIE);
}

function cookie(req: Request, name: string): string | undefined {
  return new RegExp(`(?:^|;\\s*)${name}=([A-Za-z0-9_-]{1,200})(?:;|$)`).exec(req.headers.cookie ?? '')?.[1];
}

/**
 * True when the browser uses HTTPS: to this service, to a trusted proxy, or as the `Origin` of our own page
 * says.
 */
function isSecure(req: Request): boolean {
  return req.secure || ownOrigin(req)?.protocol === 'https:';
}

/** The `Origin` of the request when it is this service under the name that the browser uses. */
function ownOrigin(req: Request): URL | undefined {
  const origin = URL.parse(req.get('origin') ?? '');
  return origin !== null && origin.host === req.get('host') ? origin : undefined;
}

function clearCookies(req: Request, res: Response): void {
  res.clearCookie(SECURE_SESSION_COOKIE, { ...ATTRIBUTES, secure: true });
  if (!isSecure(req)) res.clearCookie(SESSION_COOKIE, ATTRIBUTES);
}

function sendSession(res: Response, principal: Principal | undefined): void {
  res.set('Cache-Control', 'no-store').json({
    signedIn: principal !== undefined,
    name: principal?.name ?? null,
    scopes: principal?.scopes ?? [],
    models: principal?.models ?? null,
  });
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Browsers send a cookie with the requests of any page: a change must come from our own page. */
export function requireSameOrigin(req: Request): void {
  if (SAFE_METHODS.has(req.method)) return;
  if (req.get('sec-fetch-site') === 'same-origin' || ownOrigin(req) !== undefined) return;
  throw new IngestError(
    'forbidden',
    'A request with a session cookie may change something only when the status page sends it. Programs send "Authorization: Bearer TOKEN".',
  );
}
