import { createHash, randomBytes } from 'node:crypto';
import type { Database, ModelName, Scope } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { recordAudit } from './audit.ts';

/** Who a request comes from, and what that one may do. */
export interface Principal {
  readonly tokenId: number;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** null covers every model. */
  readonly models: readonly string[] | null;
}

export interface NewToken {
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly models: readonly ModelName[] | null;
  readonly expiresAt: Date | null;
}

/** 256 random bits; the prefix lets secret scanners know one. */
const PREFIX = 'si_';

/** Makes a token and returns it: the only time that it is seen. Stored is its SHA-256. */
export async function createToken(db: Kysely<Database>, token: NewToken, actor: string): Promise<string> {
  const secret = `${PREFIX}${randomBytes(32).toString('base64url')}`;
  await db.transaction().execute(async (trx) => {
    await trx
      .insertInto('ingest.api_token')
      .values({
        name: token.name,
        token_sha256: sha256(secret),
        scopes: [...token.scopes],
        models: token.models === null ? null : [...token.models],
        expires_at: token.expiresAt,
      })
      .execute();
    await recordAudit(trx, {
      actor,
      action: 'create_token',
      detail: { name: token.name, scopes: token.scopes, models: token.models },
    });
  });
  return secret;
}

/**
 * The bearer of a token that is known, not expired and not revoked. It is looked up by its SHA-256, so that
 * the time a look-up takes tells nothing about the token.
 */
export async function findPrincipal(db: Kysely<Database>, secret: string): Promise<Principal | undefined> {
  const row = await db
    .selectFrom('ingest.api_token')
    .select(['token_id', 'name', 'scopes', 'models', 'last_used_at'])
    .where('token_sha256', '=', sha256(secret))
    .where('revoked_at', 'is', null)
    .where((eb) => eb.or([eb('expires_at', 'is', null), eb('expires_at', '>', sql<Date>`now()`)]))
    .executeTakeFirst();
  if (row === undefined) return undefined;
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

function sha256(text: string): Buffer {
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
