import type { Scope } from 'db-schema';
import type { Request, RequestHandler, Response } from 'express';
import { IngestError, isDatabaseUnavailable } from '../errors.ts';
import type { Principals } from '../runs/principals.ts';
import { allows, covers, type Principal } from '../runs/tokens.ts';
import type { Refusal } from './rate-limit.ts';
import { requireSameOrigin, sessionIdOf } from './session-routes.ts';

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
