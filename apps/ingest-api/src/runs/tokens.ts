import { createHash, timingSafeEqual } from 'node:crypto';
import type { Database, Scope } from 'db-schema';
import { type Kysely, sql } from 'kysely';

/** Who a request comes from, and what that one may do. */
export interface Principal {
  readonly tokenId: number;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** null covers every model. */
  readonly models: readonly string[] | null;
}

/** A token lives while it is neither revoked nor expired. Write it into a WHERE. */
export const isLive = sql<boolean>`(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))`;

/**
 * The bearer of a live token. It is looked up by its SHA-256, so that the time of the look-up tells nothing
 * about the token, and compared once more in constant time.
 */
export async function findPrincipal(db: Kysely<Database>, secret: string): Promise<Principal | undefined> {
  const digest = sha256(secret);
  const row = await db
    .selectFrom('ingest.api_token')
    .select(['token_id', 'name', 'token_sha256', 'scopes', 'models', 'last_used_at'])
    .where('token_sha256', '=', digest)
    .where(isLive)
    .executeTakeFirst();
  if (row === undefined || !timingSafeEqual(row.token_sha256, digest)) return undefined;
  if (row.last_used_at === null || Date.now() - row.last_used_at.getTime() > NOTE_USE_EVERY_MS) {
    await db
      .updateTable('ingest.api_token')
      .set({ last_used_at: sql<Date>`now()` })
      .where('token_id', '=', row.token_id)
      .execute();
  }
  return { tokenId: row.token_id, name: row.name, scopes: row.scopes, models: row.models };
}

const NOTE_USE_EVERY_MS = 60_000;

export function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** True when the bearer may see and touch that model at all. */
export function covers(principal: Principal, model: string): boolean {
  return principal.models === null || principal.models.includes(model);
}

/** `admin` may do all; who may push or operate may also read. */
export function allows(principal: Principal, scope: Scope): boolean {
  const { scopes } = principal;
  if (scopes.includes('admin') || scopes.includes(scope)) return true;
  return scope === 'read' && (scopes.includes('push') || scopes.includes('operate'));
}
