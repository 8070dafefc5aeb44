import { randomBytes } from 'node:crypto';
import type { Database, ModelName, Scope } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { recordAudit } from './audit.ts';
import { isLive, sha256 } from './tokens.ts';

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

/** The live tokens of a name, held against other changes of that name until the transaction ends. */
async function lockLiveTokens(trx: Transaction<Database>, name: string) {
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`token ${name}`}, 0))`.execute(trx);
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
