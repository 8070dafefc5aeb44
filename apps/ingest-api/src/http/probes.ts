import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect } from 'db-schema';
import { Router } from 'express';
import type pg from 'pg';
import { IngestError } from '../errors.ts';
import { diskProbe } from '../store/folder.ts';

/** Probes of Kubernetes wait for 1 s by default (`timeoutSeconds`). */
const ANSWERS_WITHIN_MS = 900;
/** PostgreSQL and the disk are asked at most this often, however many probes there are. */
const ASK_EVERY_MS = 1_000;

interface ProbeOptions {
  readonly readiness: Pick<Readiness, 'check'>;
  isStopping(): boolean;
  isOpen(): boolean;
}

/**
 * `/livez`: the process answers. `/readyz`: the database and the disk can be reached. Neither needs a token.
 */
export function probes({ readiness, isStopping, isOpen }: ProbeOptions): Router {
  const router = Router();
  router.get('/livez', (_req, res) => {
    res.set('Cache-Control', 'no-store').json({ status: 'ok' });
  });
  router.get('/readyz', async (_req, res) => {
    if (isStopping()) throw new IngestError('shutting_down', 'The service is stopping.');
    await readiness.check();
    if (!isOpen())
      throw new IngestError(
        'database_unavailable',
        'The service has not reached its database since it started.',
      );
    res.set('Cache-Control', 'no-store').json({ status: 'ready' });
  });
  return router;
}

/**
 * Whether the database and the disk can be reached, asked on a database connection of its own: requests that
 * wait for a shared connection do not make the service unready, and probes take no connection from them.
 */
export class Readiness {
  readonly #connection: ConnectOptions;
  readonly #probeDisk: () => Promise<void>;
  #client: Promise<pg.Client> | undefined;
  #askedMs = Number.NEGATIVE_INFINITY;
  #answer: Promise<void> = Promise.resolve();
  #disk: Promise<void> | undefined;
  /** What the disk answered last. A sync that is still running on a busy disk is not a fault. */
  #diskFault: unknown;

  constructor(connection: ConnectOptions, dataDir: string) {
    this.#connection = { ...connection, connectTimeoutMs: ANSWERS_WITHIN_MS };
    this.#probeDisk = diskProbe(dataDir);
  }

  /** Settles within a second; rejects with what is wrong. */
  check(): Promise<void> {
    const nowMs = performance.now();
    if (nowMs - this.#askedMs >= ASK_EVERY_MS) {
      this.#askedMs = nowMs;
      this.#answer = Promise.all([this.#checkDatabase(), this.#checkDisk()]).then(() => {});
      this.#answer.catch(() => {}); // every caller gets the rejection
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
          throw new IngestError(
            'database_unavailable',
            `PostgreSQL did not answer within ${ANSWERS_WITHIN_MS} ms.`,
          );
        }),
      ]);
    } catch (error) {
      void this.#endClient(); // the next check makes a new connection
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
