import { hash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database, Scope } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ModelName } from 'wire';
import { UsageError } from '../errors.ts';
import { recordAudit } from './history.ts';

/** Who sends a request, and what the sender may do. */
export interface Principal {
  readonly tokenId: number;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** null covers every model. */
  readonly models: readonly string[] | null;
  /**
   * The kind and the digest of what the sender presented: the token, or a session that was started with it.
   */
  readonly credential: string;
}

/** True when the bearer may see and change that model at all. */
export function covers(principal: Principal, model: string): boolean {
  return principal.models === null || principal.models.includes(model);
}

/** `admin` includes every scope; `push` and `operate` include `read`. */
export function allows(principal: Principal, scope: Scope): boolean {
  const { scopes } = principal;
  if (scopes.includes('admin') || scopes.includes(scope)) return true;
  return scope === 'read' && (scopes.includes('push') || scopes.includes('operate'));
}

/** SQL: true for a token that is neither revoked nor expired. */
const isLive = sql<boolean>`(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))`;

/** Of the tokens of a name, live ones are first, and then the newest. */
const liveThenNewest = sql`${isLive} DESC, token_id DESC`;

export interface NewToken {
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly models: readonly ModelName[] | null;
  readonly expiresAt: Date | null;
}

/** Lets secret scanners recognise a token. */
const PREFIX = 'si_';

/**
 * Creates a token of 256 random bits and returns it. The database stores only its SHA-256, so nobody can read
 * it again.
 *
 * @throws when a live token has that name.
 */
export async function createToken(db: Kysely<Database>, token: NewToken, actor: string): Promise<string> {
  return db.transaction().execute(async (trx) => {
    if ((await lockTokens(trx, token.name))[0]?.isLive === true) {
      throw new UsageError(
        `A live token is already named "${token.name}". Create its successor with \`ingest-api token rotate ${token.name}\`, or choose another name.`,
      );
    }
    return insertToken(trx, token, actor);
  });
}

/**
 * Creates the successor of a live token, with its name, scopes and models. Both are valid, so that clients
 * can be moved one by one before the older one is revoked. Without a live token, it is the successor of the
 * newest one that has expired.
 *
 * @throws when all tokens of that name are revoked, or two of them are live already.
 */
export async function rotateToken(
  db: Kysely<Database>,
  name: string,
  expiresAt: Date | null,
  actor: string,
): Promise<string> {
  return db.transaction().execute(async (trx) => {
    const [token, second] = await lockTokens(trx, name);
    if (token === undefined)
      throw new UsageError(
        `No token to replace is named "${name}" (revoked ones do not count); create one with \`ingest-api token create\`.`,
      );
    if (second?.isLive === true) {
      throw new UsageError(
        `Two live tokens are already named "${name}". Revoke the older one first: \`ingest-api token revoke ${name} --keep-newest\`.`,
      );
    }
    return insertToken(trx, { name, scopes: token.scopes, models: token.models, expiresAt }, actor);
  });
}

/**
 * The tokens of a name that are not revoked, live ones first. Nobody else creates one until the transaction ends: the
 * lock of the table blocks writers and no readers, and only logins that may write tokens can take it (any login can take
 * an advisory lock).
 */
async function lockTokens(trx: Transaction<Database>, name: string) {
  await sql`LOCK TABLE ingest.api_token IN SHARE ROW EXCLUSIVE MODE`.execute(trx);
  return trx
    .selectFrom('ingest.api_token')
    .select(['scopes', 'models', isLive.as('isLive')])
    .where('name', '=', name)
    .where('revoked_at', 'is', null)
    .orderBy(liveThenNewest)
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
 * Revokes the tokens of a name, or all but the newest live one (without a live one: all but the newest). Expired
 * ones count: monitoring names them until they are revoked. The sessions and streams of a token end with it.
 *
 * @returns the number of revoked tokens.
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
      .where('revoked_at', 'is', null)
      .$if(options.keepNewest, (query) =>
        query.where('token_id', '<>', (eb) =>
          eb
            .selectFrom('ingest.api_token')
            .select('token_id')
            .where('name', '=', name)
            .where('revoked_at', 'is', null)
            .orderBy(liveThenNewest)
            .limit(1),
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

/** Every token that was ever created, by name, the newest first; never the secret itself. */
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

function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}

/** A revoked token, or a session that another process has ended, is accepted for this long at most. */
const FRESH_FOR_MS = 1_000;
/** The database is queried no more often than this, however many unknown tokens arrive. */
const QUERY_EVERY_MS = 250;
/** Unknown credentials that are remembered; they are random, so they do not become valid later. */
const REMEMBERED_REFUSALS = 1_000;
const RECORD_USE_EVERY_MS = 60_000;

const SESSION_HOURS = 12;
/** When a token has more, its oldest ones end. */
const SESSIONS_PER_TOKEN = 100;

type Credential = 'token' | 'session';

/**
 * The owners of tokens and sessions. One query reads all live ones, at most once a second for credentials
 * that are known. An unknown credential may be new, and waits for the next query, which all unknown ones
 * share. So a flood of bad tokens adds at most four queries a second, and good tokens do not queue behind it.
 *
 * They are found by SHA-256: the time of a search reveals nothing about a secret.
 */
export class Principals {
  readonly #db: Kysely<Database>;
  #live: ReadonlyMap<string, Principal> = new Map();
  #readAtMs = Number.NEGATIVE_INFINITY;
  #lastQueryMs = Number.NEGATIVE_INFINITY;
  /** When this process last ended a session: what it read before is out of date. */
  #changedAtMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  readonly #refused = new Set<string>();
  readonly #usedAtMs = new Map<number, number>();

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** The bearer of a live token, or of a session of one. */
  async find(kind: Credential, secret: string): Promise<Principal | undefined> {
    const credential = keyOf(kind, sha256(secret));
    const nowMs = performance.now();
    let principal = (await this.#readSince(nowMs - FRESH_FOR_MS)).get(credential);
    if (principal === undefined) {
      if (this.#refused.has(credential)) return undefined;
      principal = (await this.#readSince(nowMs)).get(credential);
    }
    if (principal === undefined) this.#rememberRefusal(credential);
    else await this.#recordUse(principal);
    return principal;
  }

  /**
   * The principal as it is now; undefined when its token was revoked or has expired, or its session has
   * ended.
   */
  async current({ credential }: Principal): Promise<Principal | undefined> {
    return (await this.#readSince(performance.now() - FRESH_FOR_MS)).get(credential);
  }

  /** @returns the session's id: 256 random bits, of which the database stores only the SHA-256. */
  async beginSession({ tokenId, name }: Principal): Promise<string> {
    const secret = randomBytes(32).toString('base64url');
    await this.#db.transaction().execute(async (trx) => {
      await trx
        .insertInto('ingest.session')
        .values({
          session_sha256: sha256(secret),
          token_id: tokenId,
          expires_at: sql<Date>`now() + ${SESSION_HOURS} * interval '1 hour'`,
        })
        .execute();
      await sql`
        DELETE FROM ingest.session WHERE session_sha256 IN (
          SELECT session_sha256 FROM ingest.session WHERE token_id = ${tokenId}
          ORDER BY created_at DESC, session_sha256 OFFSET ${SESSIONS_PER_TOKEN})`.execute(trx);
      await recordAudit(trx, { actor: name, action: 'sign_in' });
    });
    return secret;
  }

  /** Ends a session: at once in this process, within a second in others. */
  async endSession(secret: string): Promise<void> {
    const principal = await this.find('session', secret); // an unknown one needs no transaction
    if (principal === undefined) return;
    await this.#db.transaction().execute(async (trx) => {
      await trx.deleteFrom('ingest.session').where('session_sha256', '=', sha256(secret)).execute();
      await recordAudit(trx, { actor: principal.name, action: 'sign_out' });
    });
    this.#changedAtMs = performance.now();
  }

  /** The live credentials as of `sinceMs` or later. */
  async #readSince(sinceMs: number): Promise<ReadonlyMap<string, Principal>> {
    while (this.#readAtMs < Math.max(sinceMs, this.#changedAtMs)) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
    return this.#live;
  }

  async #read(): Promise<void> {
    const waitMs = this.#lastQueryMs + QUERY_EVERY_MS - performance.now();
    if (waitMs > 0) await delay(waitMs);
    const startedMs = performance.now();
    this.#lastQueryMs = startedMs;
    const { rows } = await sql<LiveRow>`
      SELECT t.token_id, t.name, t.scopes, t.models, t.token_sha256, s.session_sha256
      FROM ingest.api_token t
      LEFT JOIN ingest.session s ON s.token_id = t.token_id AND s.expires_at > now()
      WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())`.execute(this.#db);
    const live = new Map<string, Principal>();
    for (const { token_id: tokenId, name, scopes, models, token_sha256, session_sha256 } of rows) {
      const add = (credential: string) => live.set(credential, { tokenId, name, scopes, models, credential });
      add(keyOf('token', token_sha256));
      if (session_sha256 !== null) add(keyOf('session', session_sha256));
    }
    this.#live = live;
    this.#readAtMs = startedMs;
  }

  #rememberRefusal(credential: string): void {
    this.#refused.add(credential);
    if (this.#refused.size <= REMEMBERED_REFUSALS) return;
    for (const oldest of this.#refused) {
      this.#refused.delete(oldest);
      return;
    }
  }

  async #recordUse({ tokenId }: Principal): Promise<void> {
    const nowMs = performance.now();
    const usedAtMs = this.#usedAtMs.get(tokenId);
    if (usedAtMs !== undefined && nowMs - usedAtMs < RECORD_USE_EVERY_MS) return;
    this.#usedAtMs.set(tokenId, nowMs);
    try {
      await sql`
        UPDATE ingest.api_token SET last_used_at = now()
        WHERE token_id = ${tokenId}
          AND (last_used_at IS NULL OR last_used_at < now() - ${RECORD_USE_EVERY_MS} * interval '1 millisecond')`.execute(
        this.#db,
      );
    } catch (error) {
      this.#usedAtMs.delete(tokenId);
      throw error;
    }
  }
}

interface LiveRow {
  readonly token_id: number;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly models: readonly string[] | null;
  readonly token_sha256: Buffer;
  readonly session_sha256: Buffer | null;
}

function keyOf(kind: Credential, digest: Buffer): string {
  return `${kind} ${digest.toString('base64')}`;
}

/** Part of the service's sweep: sessions that have expired, or whose token has. */
export async function removeEndedSessions(db: Kysely<Database>): Promise<void> {
  await sql`
    DELETE FROM ingest.session
    WHERE expires_at <= now()
      OR token_id NOT IN (SELECT token_id FROM ingest.api_token WHERE ${isLive})`.execute(db);
}
