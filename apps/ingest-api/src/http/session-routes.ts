import type { Database } from 'db-schema';
import { json, Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { recordAudit } from '../runs/audit.ts';
import { findPrincipal, type Principal } from '../runs/tokens.ts';
import { parseRequest } from './requests.ts';
import { clearSession, requireSameOrigin, sessionToken, setSession } from './session-cookie.ts';

export const signInRequest = z.strictObject({
  token: z
    .string()
    .trim()
    .regex(/^[A-Za-z0-9_-]{1,200}$/, 'must be a token as `ingest-api token create` printed it'),
});

/** The status page's sign-in: a token in, a cookie out. Open, as it is how one comes in. */
export function sessionRoutes({ db }: { readonly db: Kysely<Database> }): Router {
  const router = Router();

  router.get('/session', async (req, res) => {
    const token = sessionToken(req);
    const principal = token === undefined ? undefined : await findPrincipal(db, token);
    res.set('Cache-Control', 'no-store').json(sessionOf(principal));
  });

  router.post('/session', json({ limit: '4kb', inflate: false }), async (req, res) => {
    requireSameOrigin(req);
    const { token } = parseRequest(signInRequest, req.body, 'The sign-in');
    const principal = await findPrincipal(db, token);
    if (principal === undefined) {
      throw new IngestError(
        'unauthenticated',
        'The token is unknown, expired or revoked; ask the operators for a new one.',
      );
    }
    res.locals.principal = principal;
    await recordAudit(db, { actor: principal.name, action: 'sign_in' });
    setSession(req, res, token);
    res.set('Cache-Control', 'no-store').json(sessionOf(principal));
  });

  router.delete('/session', (req, res) => {
    requireSameOrigin(req);
    clearSession(req, res);
    res.set('Cache-Control', 'no-store').json(sessionOf(undefined));
  });

  return router;
}

function sessionOf(principal: Principal | undefined) {
  return {
    signedIn: principal !== undefined,
    name: principal?.name ?? null,
    scopes: principal?.scopes ?? [],
    models: principal?.models ?? null,
  };
}
