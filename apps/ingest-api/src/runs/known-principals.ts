import type { Database } from 'db-schema';
import type { Kysely } from 'kysely';
import { findPrincipal, type Principal, sha256 } from './tokens.ts';

/** A token that was revoked is let in for so long at most. */
const KNOWN_FOR_MS = 1_000;

/**
 * `findPrincipal` for every request, which asks for a token once a second at most: a client that sends thousands of small
 * files would have it looked up thousands of times. Only who was let in is remembered, by the token's SHA-256.
 */
export function knownPrincipals(db: Kysely<Database>): (secret: string) => Promise<Principal | undefined> {
  const known = new Map<string, { readonly principal: Principal; readonly untilMs: number }>();
  return async (secret) => {
    const digest = sha256(secret).toString('base64');
    const nowMs = performance.now();
    const remembered = known.get(digest);
    if (remembered !== undefined && nowMs < remembered.untilMs) return remembered.principal;
    for (const [other, { untilMs }] of known) if (nowMs >= untilMs) known.delete(other);
    const principal = await findPrincipal(db, secret);
    if (principal !== undefined) known.set(digest, { principal, untilMs: nowMs + KNOWN_FOR_MS });
    return principal;
  };
}
