import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import type { Principal, Principals } from '../runs/tokens.ts';
import { readJson } from './json-body.ts';
import { limitRefusals, limitSignIns, type Refusal } from './limits.ts';
import { parseRequest } from './requests.ts';

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
