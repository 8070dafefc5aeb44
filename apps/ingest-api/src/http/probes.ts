import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect } from 'db-schema';
import { Router } from 'express';
import type pg from 'pg';
import { IngestError } from '../errors.ts';
import type { Store } from '../store/store.ts';

/** Probes of Kubernetes wait for 1 s by default (`timeoutSeconds`). */
const ANSWERS_WITHIN_MS = 900;
/** PostgreSQL and the store are asked at most this often, however many probes there are. */
const ASK_EVERY_MS = 1_000;

interface ProbeOptions {
  readonly readiness: Pick<Readiness, 'check'>;
  isStopping(): boolean;
  isOpen(): boolean;
}

/**
 * `/livez`: the process answers. `/readyz`: the database and the store can be reached. Neither needs a token.
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
        'The service has not reached its database and its store since it started.',
      );
    res.set('Cache-Control', 'no-store').json({ status: 'ready' });
  });
  return router;
}

/**
 * Whether the database and the store can be reached, asked on a database connection of its own: requests that
 * wait for a shared connection do not make the service unready, and probes take no connection from them.
 */
export class Readiness {
  readonly #connection: ConnectOptions;
  readonly #probeStore: () => Promise<void>;
  #client: Promise<pg.Client> | undefined;
  #askedMs = Number.NEGATIVE_INFINITY;
  #answer: Promise<void> = Promise.resolve();
  #store: Promise<void> | undefined;
  /** What the store answered last. A sync that is still running on a busy disk is not a fault. */
  #storeFault: unknown;

  constructor(connection: ConnectOptions, store: Store) {
    this.#connection = { ...connection, connectTimeoutMs: ANSWERS_WITHIN_MS };
    this.#probeStore = storeProbe(store);
  }

  /** Settles within a second; rejects with what is wrong. */
  check(): Promise<void> {
    const nowMs = performance.now();
    if (nowMs - this.#askedMs >= ASK_EVERY_MS) {
      this.#askedMs = nowMs;
      this.#answer = Promise.all([this.#checkDatabase(), this.#checkStore()]).then(() => {});
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

  async #checkStore(): Promise<void> {
    this.#store ??= this.#probeStore()
      .then(
        () => {
          this.#storeFault = undefined;
        },
        (error: unknown) => {
          this.#storeFault = error;
        },
      )
      .finally(() => {
        this.#store = undefined;
      });
    const late = new AbortController();
    await Promise.race([this.#store, delay(ANSWERS_WITHIN_MS, undefined, late).catch(() => {})]);
    late.abort();
    if (this.#storeFault !== undefined) throw this.#storeFault;
  }
}

/** A store that needs longer for a few bytes hangs, or is too busy for uploads. */
const STORE_ANSWERS_WITHIN_MS = 5_000;

/**
 * Asks the store, and waits for it. A call to a disk that hangs never returns and occupies a thread for ever, so at most one
 * is under way.
 *
 * @returns a function that rejects when the store does not answer as it should.
 */
function storeProbe(store: Store): () => Promise<void> {
  let underWay: Promise<void> | undefined;
  return async () => {
    underWay ??= store.probe().finally(() => {
      underWay = undefined;
    });
    const late = new AbortController();
    try {
      await Promise.race([
        underWay,
        delay(STORE_ANSWERS_WITHIN_MS, undefined, late).then(() => {
          throw new IngestError(
            'storage_fault',
            `The store of the uploads, ${store.name}, did not answer within ${STORE_ANSWERS_WITHIN_MS / 1000} s.`,
          );
        }),
      ]);
    } catch (error) {
      if (error instanceof IngestError) throw error;
      throw new IngestError(
        'storage_fault',
        `The store of the uploads, ${store.name}, does not accept writes.`,
        {
          cause: error,
        },
      );
    } finally {
      late.abort();
    }
  };
}
