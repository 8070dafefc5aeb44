import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import type { Principal, Principals } from '../runs/tokens.ts';
import { readJson } from './json-body.ts';
import { limitRefusals, limitTokens, type Refusal } from './limits.ts';
import { parseRequest } from './requests.ts';

export const SESSION_COOKIE = 'ingest_session';
/** Browsers take a cookie of this prefix only with `Secure`, for one host, and from no other one of its domain. */
export const SECURE_SESSION_COOKIE = `__Host-${SESSION_COOKIE}`;
/** The server ends it then; without the cookie the page would only ask in vain. */
const LASTS_MS = 12 * 60 * 60_000;

/** Of an address, with tokens that are not valid. */
const FAILED_SIGN_INS_PER_MINUTE = 10;
/** With one token, which is valid: each writes to the database. */
const SIGN_INS_PER_MINUTE = 60;

export const signInRequest = z.strictObject({
  token: z
    .string()
    .trim()
    .regex(/^[A-Za-z0-9_-]{1,200}$/, 'must be a token as `ingest-api token create` printed it'),
});

/**
 * The status page's sign-in: a token in, a session out. The cookie is the session's random id and never the token; the
 * service ends it at sign-out, after 12 hours, and with its token. Needs no token: it is the sign-in itself.
 */
export function sessionRoutes(principals: Principals, refuse: Refusal): Router {
  const router = Router();
  const refuseSignIn = limitRefusals(FAILED_SIGN_INS_PER_MINUTE);
  const limitSignIns = limitTokens(SIGN_INS_PER_MINUTE);

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
    limitSignIns(principal);
    const before = sessionIdOf(req);
    if (before !== undefined) await principals.endSession(before);
    const id = await principals.beginSession(principal);
    const secure = isSecure(req);
    const name = secure ? SECURE_SESSION_COOKIE : SESSION_COOKIE;
    res.cookie(name, id, { ...ATTRIBUTES, secure, maxAge: LASTS_MS });
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

/** Out of reach of scripts, and never sent by another site's page. */
const ATTRIBUTES = { httpOnly: true, sameSite: 'strict', path: '/' } as const;

/** The session's id as the cookie has it. Over HTTPS no cookie counts that a page without it could have set. */
export function sessionIdOf(req: Request): string | undefined {
  const secured = cookie(req, SECURE_SESSION_COOKIE);
  return secured !== undefined || isSecure(req) ? secured : cookie(req, SESSION_COOKIE);
}

function cookie(req: Request, name: string): string | undefined {
  return new RegExp(`(?:^|;\\s*)${name}=([A-Za-z0-9_-]{1,200})(?:;|$)`).exec(req.headers.cookie ?? '')?.[1];
}

/** HTTPS from here to the browser: our own, that of a trusted proxy, or as our own page's browser says. */
function isSecure(req: Request): boolean {
  return req.secure || ownOrigin(req)?.protocol === 'https:';
}

/** The Origin of the request when it is this service, as the browser sees it. */
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

/** A cookie is sent by the browser unasked: what it may change must have been asked for by our own page. */
export function requireSameOrigin(req: Request): void {
  if (SAFE_METHODS.has(req.method)) return;
  if (req.get('sec-fetch-site') === 'same-origin' || ownOrigin(req) !== undefined) return;
  throw new IngestError(
    'forbidden',
    'A change that is signed in by cookie must come from the status page itself. Programs send "Authorization: Bearer TOKEN".',
  );
}
