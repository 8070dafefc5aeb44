import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect } from 'db-schema';
import { Router } from 'express';
import type pg from 'pg';
import { IngestError } from '../errors.ts';
import { diskProbe } from '../store/folder.ts';

/** A probe of Kubernetes waits for 1 s by default (`timeoutSeconds`). */
const ANSWERS_WITHIN_MS = 900;
/** However many ask: PostgreSQL and the disk are asked once in this time. */
const ASKED_EVERY_MS = 1_000;

interface ProbeOptions {
  readonly readiness: Pick<Readiness, 'check'>;
  isStopping(): boolean;
  isOpen(): boolean;
}

/** `/livez`: the process answers. `/readyz`: it can do its work, i.e. reach the database and its disk. No token needed. */
export function probes({ readiness, isStopping, isOpen }: ProbeOptions): Router {
  const router = Router();
  router.get('/livez', (_req, res) => {
    res.set('Cache-Control', 'no-store').json({ status: 'ok' });
  });
  router.get('/readyz', async (_req, res) => {
    if (isStopping()) throw new IngestError('shutting_down', 'The service is stopping.');
    await readiness.check();
    if (!isOpen())
      throw new IngestError('database_unavailable', 'The database has not been reached since the start.');
    res.set('Cache-Control', 'no-store').json({ status: 'ready' });
  });
  return router;
}

/**
 * Whether the service can do its work, asked on a connection of its own: requests that wait for one of the shared
 * connections do not make it unready, and probes take none from them.
 */
export class Readiness {
  readonly #connection: ConnectOptions;
  readonly #probeDisk: () => Promise<void>;
  #client: Promise<pg.Client> | undefined;
  #askedMs = Number.NEGATIVE_INFINITY;
  #answer: Promise<void> = Promise.resolve();
  #disk: Promise<void> | undefined;
  /** What the disk answered last: a sync that takes a while, on a busy disk, is no fault yet. */
  #diskFault: unknown;

  constructor(connection: ConnectOptions, dataDir: string) {
    this.#connection = { ...connection, connectTimeoutMs: ANSWERS_WITHIN_MS };
    this.#probeDisk = diskProbe(dataDir);
  }

  /** Resolves within a second; rejects with what is wrong. */
  check(): Promise<void> {
    const nowMs = performance.now();
    if (nowMs - this.#askedMs >= ASKED_EVERY_MS) {
      this.#askedMs = nowMs;
      this.#answer = Promise.all([this.#checkDatabase(), this.#checkDisk()]).then(() => {});
      this.#answer.catch(() => {}); // each asker hears of it
    }
    return this.#answer;
  }

  async close(): Promise<void> {
    this.#askedMs = Number.POSITIVE_INFINITY;
    await this.#answer.catch(() => {});
    await this.#endClient();
  }

  async #checkDatabase(): Promise<void> {
    const late = new AbortController();
    try {
      await Promise.race([
        this.#ask(),
        delay(ANSWERS_WITHIN_MS, undefined, late).then(() => {
          throw new IngestError('database_unavailable', 'PostgreSQL did not answer within a second.');
        }),
      ]);
    } catch (error) {
      void this.#endClient(); // the next question is asked on another one
      throw error;
    } finally {
      late.abort();
    }
  }

  async #ask(): Promise<void> {
    this.#client ??= connect(this.#connection);
    await (await this.#client).query('SELECT FROM ingest.run_revision LIMIT 1');
  }

  async #endClient(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.then((it) => it.end()).catch(() => {});
  }

  async #checkDisk(): Promise<void> {
    this.#disk ??= this.#probeDisk()
      .then(
        () => {
          this.#diskFault = undefined;
        },
        (error: unknown) => {
          this.#diskFault = error;
        },
      )
      .finally(() => {
        this.#disk = undefined;
      });
    const late = new AbortController();
    await Promise.race([this.#disk, delay(ANSWERS_WITHIN_MS, undefined, late).catch(() => {})]);
    late.abort();
    if (this.#diskFault !== undefined) throw this.#diskFault;
  }
}
