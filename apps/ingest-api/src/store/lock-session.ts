import pg from 'pg';
import { destroyConnection } from '../destroy-connection.ts';

/** A session that was last heard of so long ago is asked before it is trusted again: what it locks may be free. */
const TRUSTED_FOR_MS = 5_000;
const HEARTBEAT_EVERY_MS = 1_000;
const CONNECT_TIMEOUT_MS = 3_000;

/**
 * Before it writes where another process did not end in order, a writer waits so long: longer than that one
 * trusts a session of its own that has gone (docs/decisions/0020).
 */
export const GRACE_MS = TRUSTED_FOR_MS + HEARTBEAT_EVERY_MS;

const CHANNEL = 'ingest_upload_lock';

export interface LockSessionOptions {
  readonly clientConfig: pg.ClientConfig;
  /** Another process waits for a lock, maybe one that we hold. */
  onWanted(uploadId: string): void;
  /** A lock that somebody waited for was given up, by this process or another one. */
  onFreed(uploadId: string): void;
  onLost(reason: string): void;
}

/** A lock across processes: as good as the session that took it. */
export interface SharedLock {
  /** False from the moment on when somebody else might take it. Asks the database when it was silent. */
  isHeld(): Promise<boolean>;
  /** `tellWaiters`: somebody has asked for it. Never rejects: a session that is lost has given it up already. */
  release(tellWaiters: boolean): Promise<void>;
}

interface Session {
  readonly client: pg.Client;
  /** When the last question was sent that the server has answered: the session was alive then. */
  confirmedMs: number;
  isLost: boolean;
  /** Settles with the newest question: they go one after the other, as pg is giving up its own queue. */
  lastAsked: Promise<unknown>;
}

/**
 * Locks of uploads that hold across processes: PostgreSQL's session advisory locks, all on one connection of
 * their own, made when it is first needed and again when it was lost. PostgreSQL frees them when the session
 * ends; who holds one must therefore ask `isHeld` before each write.
 */
export class LockSession {
  readonly #options: LockSessionOptions;
  #opening: Promise<Session> | undefined;

  constructor(options: LockSessionOptions) {
    this.#options = options;
  }

  /** Resolves to undefined when another process holds it. Rejects when the database is out of reach. */
  async tryLock(uploadId: string): Promise<SharedLock | undefined> {
    const session = await this.#session();
    const key = lockKey(uploadId);
    const { rows } = await ask<{ taken: boolean }>(
      session,
      'SELECT pg_try_advisory_lock($1::bigint) AS taken',
      [key],
    );
    if (rows[0]?.taken !== true) return undefined;
    return {
      isHeld: async () => isTrusted(session) || (await this.#confirm(session)),
      release: async (tellWaiters) => {
        if (session.isLost) return;
        const notice = tellWaiters ? ', pg_notify($2, $3)' : '';
        const values = tellWaiters ? [key, CHANNEL, `freed ${uploadId}`] : [key];
        await ask(session, `SELECT pg_advisory_unlock($1::bigint)${notice}`, values).catch(() =>
          this.#lose(session, 'a lock could not be given back'),
        );
      },
    };
  }

  /** Asks whoever holds the lock to give it up if it is stalled. */
  async askFor(uploadId: string): Promise<void> {
    const session = await this.#session();
    await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `wanted ${uploadId}`]);
  }

  async close(): Promise<void> {
    const session = await this.#opening?.catch(() => undefined);
    if (session === undefined) return;
    session.isLost = true;
    await session.client.end().catch(() => {});
  }

  #session(): Promise<Session> {
    if (this.#opening === undefined) {
      const opening = this.#open();
      this.#opening = opening;
      opening.catch(() => {
        if (this.#opening === opening) this.#opening = undefined;
      });
    }
    return this.#opening;
  }

  async #open(): Promise<Session> {
    const client = new pg.Client({
      ...this.#options.clientConfig,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    });
    const session: Session = {
      client,
      confirmedMs: performance.now(),
      isLost: false,
      lastAsked: Promise.resolve(),
    };
    client.on('error', (error) => this.#lose(session, error.message));
    client.on('end', () => this.#lose(session, 'the server ended the session'));
    client.on('notification', ({ payload = '' }) => {
      const [what, uploadId = ''] = payload.split(' ');
      if (what === 'wanted') this.#options.onWanted(uploadId);
      if (what === 'freed') this.#options.onFreed(uploadId);
    });
    await client.connect();
    // The server's own patience with a peer that is silent must be longer than ours (TRUSTED_FOR_MS).
    await client.query(`
      SET tcp_keepalives_idle = 10;
      SET tcp_keepalives_interval = 5;
      SET tcp_keepalives_count = 3;
      LISTEN ${CHANNEL}`);
    session.confirmedMs = performance.now();
    this.#keepTrusted(session);
    return session;
  }

  /** Asks again and again whether the session lives; one that does not answer in time is ended from here. */
  #keepTrusted(session: Session): void {
    let askedMs: number | undefined;
    const loseIfSilent = () => {
      if (askedMs !== undefined && performance.now() - askedMs > TRUSTED_FOR_MS)
        this.#lose(session, `the database did not answer for ${TRUSTED_FOR_MS / 1000} s`);
    };
    const timer = setInterval(() => {
      if (session.isLost) {
        clearInterval(timer);
      } else if (askedMs === undefined) {
        askedMs = performance.now();
        void this.#confirm(session).then(() => {
          askedMs = undefined;
        });
      } else {
        // Where this process itself stood still, the answer is there already: it is read before.
        setImmediate(loseIfSilent);
      }
    }, HEARTBEAT_EVERY_MS);
    timer.unref();
  }

  /** A session that answers has not ended in between: it holds what it held. */
  async #confirm(session: Session): Promise<boolean> {
    if (session.isLost) return false;
    const askedMs = performance.now();
    try {
      await ask(session, 'SELECT 1');
    } catch (error) {
      this.#lose(session, (error as Error).message);
      return false;
    }
    session.confirmedMs = Math.max(session.confirmedMs, askedMs);
    return isTrusted(session);
  }

  #lose(session: Session, reason: string): void {
    if (session.isLost) return;
    session.isLost = true;
    this.#opening = undefined;
    destroyConnection(session.client, reason);
    this.#options.onLost(reason);
  }
}

function ask<Row extends pg.QueryResultRow>(
  session: Session,
  sql: string,
  values?: unknown[],
): Promise<pg.QueryResult<Row>> {
  const answer = session.lastAsked.then(() => session.client.query<Row>(sql, values));
  session.lastAsked = answer.catch(() => {}); // whoever asked hears of it
  return answer;
}

function isTrusted(session: Session): boolean {
  return !session.isLost && performance.now() - session.confirmedMs < TRUSTED_FOR_MS;
}

/** An advisory lock has a key of 64 bits: the first half of the upload's random id. */
function lockKey(uploadId: string): string {
  return BigInt.asIntN(64, BigInt(`0x${uploadId.slice(0, 16)}`)).toString();
}
