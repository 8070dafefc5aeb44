import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { type ConnectOptions, connect, destroyConnection } from 'db-schema';
import type pg from 'pg';

/** A session that has not answered for this long is asked before it is trusted again: others may take it for gone. */
const TRUSTED_FOR_MS = 5_000;
const BEAT_EVERY_MS = 1_000;
const CONNECT_TIMEOUT_MS = 3_000;

/** A writer whose last beat is older than this is gone: its process had stopped trusting its session before. */
export const GONE_AFTER_MS = TRUSTED_FOR_MS + 2 * BEAT_EVERY_MS;

const CHANNEL = 'ingest_upload_lock';

interface WriterSessionsOptions {
  readonly connection: ConnectOptions;
  /** Another process waits for an upload, maybe one that we write. */
  onWanted(uploadId: string): void;
  /** An upload that somebody waited for was released, by this process or another one. */
  onFreed(uploadId: string): void;
  onLost(reason: string): void;
}

/** The session that a process writes uploads under: its beats tell all others whether it is alive. */
export interface WriterSession {
  readonly writer: string;
  /** False from the moment on when others may take this writer for gone. Asks the database when it was silent. */
  isTrusted(): Promise<boolean>;
  /**
   * True when that writer has not beaten for too long, or never did. It is then out for good: when it was only frozen, it
   * finds its session lost.
   */
  isGone(writer: string): Promise<boolean>;
  /** Asks whoever writes the upload to give way if it is stalled. Never rejects: who waits asks again by itself. */
  askFor(uploadId: string): Promise<void>;
  /** Never rejects: who waits asks again by itself. */
  tellFreed(uploadId: string): Promise<void>;
}

interface Session {
  readonly client: pg.Client;
  readonly writer: string;
  /** When the last question was sent that the server has answered: the session was alive then. */
  confirmedMs: number;
  isLost: boolean;
  /** Settles with the newest question: they are asked one after the other, as pg will drop its own queue. */
  lastAsked: Promise<unknown>;
}

/**
 * The sessions of a process, one after the other: a connection of their own, made when it is first needed and again when
 * it was lost, and a row that names the writer, in which it says every second that it lives, by the database's clock. A
 * frozen process keeps its connection and whatever lock it holds, so that only what it does can tell that it is alive.
 * Who writes must ask `isTrusted` before each write.
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
      writer: session.writer,
      isTrusted: async () => isTrusted(session) || (await this.#confirm(session)),
      async isGone(writer) {
        // Judged and taken out in one: a beat that comes later finds no row.
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
      async askFor(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `wanted ${uploadId}`]).catch(() => {});
      },
      async tellFreed(uploadId) {
        await ask(session, 'SELECT pg_notify($1, $2)', [CHANNEL, `freed ${uploadId}`]).catch(() => {});
      },
    };
  }

  async close(): Promise<void> {
    const session = await this.#opening?.catch(() => undefined);
    if (session === undefined) return;
    // Nobody has to wait for a writer that ends in order.
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
    // A beat need not wait for the disk: after a crash of the server all sessions begin anew.
    try {
      await client.query(`SET synchronous_commit = off; LISTEN ${CHANNEL}`);
      session.confirmedMs = performance.now();
      await client.query('INSERT INTO ingest.writer (writer) VALUES ($1)', [session.writer]);
    } catch (error) {
      destroyConnection(client, 'it cannot be written under');
      throw error;
    }
    this.#keepTrusted(session);
    return session;
  }

  /** Beats until the session is lost; one that does not answer in time is ended from here. */
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
        // Where this process itself was stopped, the answer is there already: it is read before.
        setImmediate(loseIfSilent);
      }
    }, BEAT_EVERY_MS);
    timer.unref();
  }

  /** Beats. A row that is still there was there all the time: nobody has taken this writer for gone. */
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
        throw new Error('this process was silent for too long, and others took it for gone');
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

/**
 * Who writes uploads: a process, for as long as it keeps one session of its own with the database. A name is never used
 * twice: where its process id means something (boot and PID namespace), the process id, a random name of the process, and
 * the number of the session.
 *
 * @returns a maker of the names of one process: one for each session that it opens.
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

/** True when the process of that writer has certainly ended. False may also mean that it cannot be seen from here. */
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

/** Where Linux does not tell, a value that no other process has: then nobody is ever taken for ended. */
function pidSpace(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot}/${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return `unknown/${randomBytes(8).toString('hex')}`;
  }
}
