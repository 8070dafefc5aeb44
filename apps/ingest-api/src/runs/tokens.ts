import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database, Scope } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ModelName } from 'wire';
import { recordAudit } from './history.ts';

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
const isLive = sql<boolean>`(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))`;

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

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** A token that was revoked, or a session that another process has ended, is let in for this long at most. */
const FRESH_FOR_MS = 1_000;
/** However many unknown tokens arrive, the database is asked no more often than this. */
const ASK_EVERY_MS = 250;
/** Of credentials that were unknown a moment ago; they are random, so they do not become valid later. */
const REMEMBERED_REFUSALS = 1_000;
const NOTE_USE_EVERY_MS = 60_000;

const SESSION_HOURS = 12;
/** The oldest ones of a token end when more are begun. */
const SESSIONS_A_TOKEN = 100;

type Credential = 'token' | 'session';

/**
 * Who tokens and sessions belong to. All that live are read by one query, at most once a second for those who are known;
 * who is not known may be new, and waits for the next query, which all of them share. So a flood of bad tokens costs the
 * database nothing, and a good token needs no look-up that the flood could delay.
 *
 * Found by SHA-256: the time that it takes tells nothing of a secret.
 */
export class Principals {
  readonly #db: Kysely<Database>;
  #live: ReadonlyMap<string, Principal> = new Map();
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #lastTryMs = Number.NEGATIVE_INFINITY;
  /** What was read before is out of date: this process has ended a session since. */
  #changedAtMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;
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
    if (principal === undefined) this.#noteRefusal(credential);
    else await this.#noteUse(principal);
    return principal;
  }

  /** The same one as it is now; undefined when its token was revoked or has expired, or its session has ended. */
  async current({ credential }: Principal): Promise<Principal | undefined> {
    return (await this.#readSince(performance.now() - FRESH_FOR_MS)).get(credential);
  }

  /** @returns the session's id: 256 random bits, of which the database has the SHA-256 only. */
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
          ORDER BY created_at DESC, session_sha256 OFFSET ${SESSIONS_A_TOKEN})`.execute(trx);
      await recordAudit(trx, { actor: name, action: 'sign_in' });
    });
    return secret;
  }

  /** Ends a session at once here, and within a second in other processes. */
  async endSession(secret: string): Promise<void> {
    const principal = await this.find('session', secret); // an unknown one costs no query
    if (principal === undefined) return;
    await this.#db.transaction().execute(async (trx) => {
      await trx.deleteFrom('ingest.session').where('session_sha256', '=', sha256(secret)).execute();
      await recordAudit(trx, { actor: principal.name, action: 'sign_out' });
    });
    this.#changedAtMs = performance.now();
  }

  /** What live credentials were at `sinceMs` or later. */
  async #readSince(sinceMs: number): Promise<ReadonlyMap<string, Principal>> {
    while (this.#askedAtMs < Math.max(sinceMs, this.#changedAtMs)) {
      this.#asking ??= this.#read().finally(() => {
        this.#asking = undefined;
      });
      await this.#asking;
    }
    return this.#live;
  }

  async #read(): Promise<void> {
    const waitMs = this.#lastTryMs + ASK_EVERY_MS - performance.now();
    if (waitMs > 0) await delay(waitMs);
    const askedAtMs = performance.now();
    this.#lastTryMs = askedAtMs;
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
    this.#askedAtMs = askedAtMs;
  }

  #noteRefusal(credential: string): void {
    this.#refused.add(credential);
    if (this.#refused.size <= REMEMBERED_REFUSALS) return;
    for (const oldest of this.#refused) {
      this.#refused.delete(oldest);
      return;
    }
  }

  async #noteUse({ tokenId }: Principal): Promise<void> {
    const nowMs = performance.now();
    const usedAtMs = this.#usedAtMs.get(tokenId);
    if (usedAtMs !== undefined && nowMs - usedAtMs < NOTE_USE_EVERY_MS) return;
    this.#usedAtMs.set(tokenId, nowMs);
    try {
      await sql`
        UPDATE ingest.api_token SET last_used_at = now()
        WHERE token_id = ${tokenId}
          AND (last_used_at IS NULL OR last_used_at < now() - ${NOTE_USE_EVERY_MS} * interval '1 millisecond')`.execute(
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
