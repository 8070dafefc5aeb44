import type { Database, Scope } from 'db-schema';
import type { Request, RequestHandler, Response } from 'express';
import type { Kysely } from 'kysely';
import { IngestError } from '../errors.ts';
import { knownPrincipals } from '../runs/known-principals.ts';
import { allows, covers, type Principal } from '../runs/tokens.ts';
import { requireSameOrigin, sessionToken } from './session-cookie.ts';

const BEARER = /^Bearer ([A-Za-z0-9_-]{1,200})$/;

/**
 * Lets a request in only with a valid token, and keeps who it is in `res.locals.principal`. The token comes
 * in the header, or from the status page in a cookie; the header goes first.
 */
export function authenticate(db: Kysely<Database>): RequestHandler {
  const find = knownPrincipals(db);
  return async (req, res, next) => {
    const secret = presentedToken(req);
    const principal = secret === undefined ? undefined : await find(secret);
    if (principal === undefined) {
      throw new IngestError(
        'unauthenticated',
        secret === undefined
          ? 'Send the header "Authorization: Bearer TOKEN"; `ingest-api token create` makes a token.'
          : 'The token is unknown, expired or revoked; ask the operators for a new one.',
      );
    }
    res.locals.principal = principal;
    next();
  };
}

function presentedToken(req: Request): string | undefined {
  if (req.headers.authorization !== undefined) return BEARER.exec(req.headers.authorization)?.[1];
  const token = sessionToken(req);
  if (token !== undefined) requireSameOrigin(req);
  return token;
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
