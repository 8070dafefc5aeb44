import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { type ConnectOptions, connect, destroyConnection } from 'db-schema';
import type pg from 'pg';

/** A session without an answer for this long must answer before it is trusted again: others may consider its writer gone. */
const TRUSTED_FOR_MS = 5_000;
const BEAT_EVERY_MS = 1_000;
const CONNECT_TIMEOUT_MS = 3_000;

/** A writer whose last beat is older than this is gone: its process stopped trusting its session earlier. */
export const GONE_AFTER_MS = TRUSTED_FOR_MS + 2 * BEAT_EVERY_MS;

const CHANNEL = 'ingest_upload_lock';

interface WriterSessionsOptions {
  readonly connection: ConnectOptions;
  /** Another process waits for an upload, which this process may be writing. */
  onWanted(uploadId: string): void;
  /** An upload that a request waited for was released, by this process or another one. */
  onFreed(uploadId: string): void;
  onLost(reason: string): void;
}

/**
 * The sessions of a process, one at a time. Each has a connection of its own, opened at the first use and again after a
 * loss, and a row in `ingest.writer`, whose time it sets every second, by the database's clock. A frozen process keeps its
 * connection and its locks; only its beats stop. `isTrusted` must be asked before each write.
 */
export class WriterSessions {
  readonly #options: WriterSessionsOptions;
  readonly #newWriter = writersOfProcess();
  #opening: Promise<Session> | undefined;

  constructor(options: WriterSessionsOptions) {
    this.#options = options;
  }

  /** Rejects when the database cannot be reached. */
  async current(): Promise<WriterSession> {
    const session = await this.#session();
    return {
      writer: session.writer,
      isTrusted: async () => isTrusted(session) || (await this.#confirm(session)),
      async isGone(writer) {
        // One statement checks and deletes: a later beat finds no row.
        const { rows } = await ask<{ gone: boolean }>(
          session,
          `WITH gone AS (
             DELETE FROM ingest.writer
             WHERE writer = $1 AND beat_at < clock_timestamp() - ${GONE_AFTER_MS} * interval '1 millisecond'
             RETURNING writer)
           SELECT EXISTS (SELECT FROM gone) OR NOT EXISTS (SELECT FROM ingest.writer WHERE writer = $1) AS gone`,
          [writer],
        );
        return rows[0]?.gone === true;
      },
      async notifyWanted(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `wanted ${uploadId}`]).catch(() => {});
      },
      async notifyFreed(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `freed ${uploadId}`]).catch(() => {});
      },
    };
  }

  async close(): Promise<void> {
    const session = await this.#opening?.catch(() => undefined);
    if (session === undefined) return;
    // Other processes need not wait until this writer counts as gone.
    await ask(session, 'DELETE FROM ingest.writer WHERE writer = $1', [session.writer]).catch(() => {});
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
    const client = await connect({ ...this.#options.connection, connectTimeoutMs: CONNECT_TIMEOUT_MS });
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
    // A beat need not wait for the disk: a crash of the server ends all sessions.
    try {
      await client.query(`SET synchronous_commit = off; LISTEN ${CHANNEL}`);
      session.confirmedMs = performance.now();
      await client.query('INSERT INTO ingest.writer (writer) VALUES ($1)', [session.writer]);
    } catch (error) {
      destroyConnection(client, 'the session could not be set up');
      throw error;
    }
    this.#keepTrusted(session);
    return session;
  }

  /** Beats until the session is lost. Ends a session that does not answer in time. */
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
        // If this process itself was stopped, the answer may have arrived: it is read first.
        setImmediate(loseIfSilent);
      }
    }, BEAT_EVERY_MS);
    timer.unref();
  }

  /** Beats. While the row exists, no other process has considered this writer gone. */
  async #confirm(session: Session): Promise<boolean> {
    if (session.isLost) return false;
    const askedMs = performance.now();
    try {
      const { rowCount } = await ask(
        session,
        'UPDATE ingest.writer SET beat_at = clock_timestamp() WHERE writer = $1',
        [session.writer],
      );
      if (rowCount === 0)
        throw new Error(
          'this process was silent for too long, and another one removed it from ingest.writer',
        );
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

/** The session under which a process writes uploads. Its beats show the other processes that it is alive. */
export interface WriterSession {
  readonly writer: string;
  /** False once other processes may consider this writer gone. Asks the database when it was silent. */
  isTrusted(): Promise<boolean>;
  /**
   * True when the last beat of that writer is too old, or it has no row. Its row is then deleted: a writer that was only
   * frozen finds its session lost.
   */
  isGone(writer: string): Promise<boolean>;
  /** Asks the writer of the upload to release it if it is stalled. Never rejects: a waiting request asks again. */
  notifyWanted(uploadId: string): Promise<void>;
  /** Never rejects: a waiting request asks again. */
  notifyFreed(uploadId: string): Promise<void>;
}

interface Session {
  readonly client: pg.Client;
  readonly writer: string;
  /** When the last query that the server has answered was sent: the session was alive then. */
  confirmedMs: number;
  isLost: boolean;
  /** Settles with the newest query. They are sent one after the other here, because pg will drop its own queue. */
  lastAsked: Promise<unknown>;
}

function ask<Row extends pg.QueryResultRow>(
  session: Session,
  sql: string,
  values?: unknown[],
): Promise<pg.QueryResult<Row>> {
  const answer = session.lastAsked.then(() => session.client.query<Row>(sql, values));
  session.lastAsked = answer.catch(() => {}); // the caller gets the error
  return answer;
}

function isTrusted(session: Session): boolean {
  return !session.isLost && performance.now() - session.confirmedMs < TRUSTED_FOR_MS;
}

/**
 * The names of the writers of one process: each call returns the name for its next session. No name is used twice. It has
 * four parts: the scope of the process id (boot and PID namespace), the process id, a random name of the process, and the
 * number of the session.
 */
export function writersOfProcess(): () => string {
  const ofThisProcess = `${pidSpace()} ${process.pid} ${randomBytes(8).toString('hex')}`;
  let sessions = 0;
  return () => {
    sessions += 1;
    return `${ofThisProcess} ${sessions}`;
  };
}

/** True for two sessions of one process. */
export function isSameProcess(one: string, other: string): boolean {
  return ofProcess(one) === ofProcess(other);
}

/** True when the process of that writer has certainly ended. False may also mean that it is not visible from here. */
export function hasEnded(writerName: string): boolean {
  const [space, pid] = writerName.split(' ');
  if (space !== pidSpace()) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

function ofProcess(writerName: string): string {
  return writerName.split(' ').slice(0, 3).join(' ');
}

/** Where Linux does not provide it, a value that no other process has: then `hasEnded` is always false. */
function pidSpace(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot}/${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return `unknown/${randomBytes(8).toString('hex')}`;
  }
}
