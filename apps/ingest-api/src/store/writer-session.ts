import pg from 'pg';
import { destroyConnection } from '../destroy-connection.ts';
import { keyOf, type Writer, writersOfProcess } from './writer-name.ts';

/** A session that was last heard of so long ago is asked before it is trusted again: others may take it for gone. */
const TRUSTED_FOR_MS = 5_000;
const HEARTBEAT_EVERY_MS = 1_000;
const CONNECT_TIMEOUT_MS = 3_000;

/**
 * Before it writes where another process did not end in order, a writer waits so long: longer than that one
 * trusts a session of its own that has gone (docs/decisions/0020).
 */
export const GRACE_MS = TRUSTED_FOR_MS + HEARTBEAT_EVERY_MS;

const CHANNEL = 'ingest_upload_lock';
/** The class of the advisory locks that say which writers are alive. */
export const LIVE_WRITER_LOCK_CLASS = 0x5c0f;

export interface WriterSessionsOptions {
  readonly clientConfig: pg.ClientConfig;
  /** Another process waits for an upload, maybe one that we write. */
  onWanted(uploadId: string): void;
  /** An upload that somebody waited for was given up, by this process or another one. */
  onFreed(uploadId: string): void;
  onLost(reason: string): void;
}

/** The session that a process writes uploads under: PostgreSQL tells all others whether it is alive. */
export interface WriterSession {
  readonly writer: string;
  /** False from the moment on when others may take this writer for gone. Asks the database when it was silent. */
  isTrusted(): Promise<boolean>;
  /** Whether that writer's session is there. */
  isAlive(writer: string): Promise<boolean>;
  /** Asks whoever writes the upload to give it up if it is stalled. */
  askFor(uploadId: string): Promise<void>;
  /** Never rejects: who waits asks again by itself. */
  tellFreed(uploadId: string): Promise<void>;
}

interface Session {
  readonly client: pg.Client;
  readonly writer: Writer;
  /** When the last question was sent that the server has answered: the session was alive then. */
  confirmedMs: number;
  isLost: boolean;
  /** Settles with the newest question: they go one after the other, as pg is giving up its own queue. */
  lastAsked: Promise<unknown>;
}

/**
 * The sessions of a process, one after the other: a connection of their own, made when it is first needed and again when
 * it was lost, which holds an advisory lock that stands for the writer. PostgreSQL frees it when the session
 * ends; who writes must therefore ask `isTrusted` before each write.
 */
export class WriterSessions {
  readonly #options: WriterSessionsOptions;
  readonly #newWriter = writersOfProcess();
  #opening: Promise<Session> | undefined;

  constructor(options: WriterSessionsOptions) {
    this.#options = options;
  }

  /** Rejects when the database is out of reach. */
  async current(): Promise<WriterSession> {
    const session = await this.#session();
    return {
      writer: session.writer.name,
      isTrusted: async () => isTrusted(session) || (await this.#confirm(session)),
      async isAlive(writer) {
        const { rows } = await ask<{ alive: boolean }>(
          session,
          `SELECT EXISTS (
             SELECT FROM pg_locks
             WHERE locktype = 'advisory' AND granted AND objsubid = 2
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND classid::bigint = ${LIVE_WRITER_LOCK_CLASS} AND objid::bigint = $1) AS alive`,
          [keyOf(writer)],
        );
        return rows[0]?.alive === true;
      },
      async askFor(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `wanted ${uploadId}`]);
      },
      async tellFreed(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `freed ${uploadId}`]).catch(() => {});
      },
    };
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
      writer: this.#newWriter(),
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
      SET tcp_user_timeout = '25s';
      SELECT pg_advisory_lock_shared(${LIVE_WRITER_LOCK_CLASS}, ${session.writer.key});
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
