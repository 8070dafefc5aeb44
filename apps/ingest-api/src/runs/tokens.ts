import { createHash, randomBytes } from 'node:crypto';
import type { Database, ModelName, Scope } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { recordAudit } from './audit.ts';

/** Who a request comes from, and what that one may do. */
export interface Principal {
  readonly tokenId: number;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** null covers every model. */
  readonly models: readonly string[] | null;
  /** What was shown: the digest of the token, or of the session that was begun with it. */
  readonly credential: string;
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

/** A token lives while it is neither revoked nor expired. Write it into a WHERE. */
export const isLive = sql<boolean>`(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))`;

export interface NewToken {
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly models: readonly ModelName[] | null;
  readonly expiresAt: Date | null;
}

/** 256 random bits; the prefix lets secret scanners know one. */
const PREFIX = 'si_';

/**
 * Makes a token and returns it: the only time that it is seen. Stored is its SHA-256.
 *
 * @throws when a token of that name lives.
 */
export async function createToken(db: Kysely<Database>, token: NewToken, actor: string): Promise<string> {
  return db.transaction().execute(async (trx) => {
    if ((await lockLiveTokens(trx, token.name)).length > 0) {
      throw new Error(
        `There is a live token named "${token.name}" already; make its successor with \`ingest-api token rotate ${token.name}\`, or choose another name.`,
      );
    }
    return insertToken(trx, token, actor);
  });
}

/**
 * Makes the successor of a live token, with its name, scopes and models. Both live, so that clients can be
 * moved one by one; then the older one is revoked.
 *
 * @throws when there is no live token of that name, or two already.
 */
export async function rotateToken(
  db: Kysely<Database>,
  name: string,
  expiresAt: Date | null,
  actor: string,
): Promise<string> {
  return db.transaction().execute(async (trx) => {
    const [token, second] = await lockLiveTokens(trx, name);
    if (token === undefined)
      throw new Error(`There is no live token named "${name}"; \`ingest-api token create\` makes one.`);
    if (second !== undefined) {
      throw new Error(
        `Two tokens named "${name}" live already; revoke the older one first: \`ingest-api token revoke ${name} --keep-newest\`.`,
      );
    }
    return insertToken(trx, { name, scopes: token.scopes, models: token.models, expiresAt }, actor);
  });
}

/**
 * The live tokens of a name. Until the transaction ends nobody else makes one: the table's own lock keeps changes out
 * and lets readers in, and only who may write tokens can take it (any login can take an advisory lock).
 */
async function lockLiveTokens(trx: Transaction<Database>, name: string) {
  await sql`LOCK TABLE ingest.api_token IN SHARE ROW EXCLUSIVE MODE`.execute(trx);
  return trx
    .selectFrom('ingest.api_token')
    .select(['scopes', 'models'])
    .where('name', '=', name)
    .where(isLive)
    .execute();
}

async function insertToken(
  trx: Transaction<Database>,
  token: Omit<NewToken, 'models'> & { readonly models: readonly string[] | null },
  actor: string,
): Promise<string> {
  const secret = `${PREFIX}${randomBytes(32).toString('base64url')}`;
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
  return secret;
}

/**
 * Ends the live tokens of a name at once, or all but the newest of them; with a token its sessions and streams end.
 *
 * @returns how many it ended.
 */
export async function revokeTokens(
  db: Kysely<Database>,
  name: string,
  options: { readonly keepNewest: boolean },
  actor: string,
): Promise<number> {
  return db.transaction().execute(async (trx) => {
    const revoked = await trx
      .updateTable('ingest.api_token')
      .set({ revoked_at: sql<Date>`now()` })
      .where('name', '=', name)
      .where(isLive)
      .$if(options.keepNewest, (query) =>
        query.where('token_id', '<', (eb) =>
          eb
            .selectFrom('ingest.api_token')
            .select((max) => max.fn.max('token_id').as('newest'))
            .where('name', '=', name)
            .where(isLive),
        ),
      )
      .returning('token_id')
      .execute();
    for (const { token_id } of revoked) {
      await trx.deleteFrom('ingest.session').where('token_id', '=', token_id).execute();
      await recordAudit(trx, { actor, action: 'revoke_token', detail: { name, tokenId: token_id } });
    }
    return revoked.length;
  });
}

/** Every token that was ever made, by name, the newest first; never the token itself. */
export function listTokens(db: Kysely<Database>) {
  return db
    .selectFrom('ingest.api_token')
    .select([
      'token_id',
      'name',
      'scopes',
      'models',
      'created_at',
      'expires_at',
      'revoked_at',
      'last_used_at',
    ])
    .select(
      sql<'live' | 'expired' | 'revoked'>`
        CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'live' END`.as(
        'state',
      ),
    )
    .orderBy('name')
    .orderBy('token_id', 'desc')
    .execute();
}

export function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
