import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database, Scope } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { recordAudit } from './audit.ts';
import { isLive, type Principal, sha256 } from './tokens.ts';

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
