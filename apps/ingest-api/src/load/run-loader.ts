import { connect } from 'db-schema';
import type pg from 'pg';
import { describeError } from '../errors.ts';
import { QUEUE_CHANNEL } from '../runs/queue-complete-revisions.ts';
import { loadNext } from './load-next.ts';
import type { LoaderContext } from './loader-context.ts';

/**
 * Loads what is queued, one revision at a time, until `context.signal` is aborted. Woken by NOTIFY; looks
 * every `pollIntervalMs` besides, for what no notification tells: a next try that is due, a loader that died.
 */
export async function runLoader(context: LoaderContext, pollIntervalMs: number): Promise<void> {
  const bell = new QueueBell(context);
  let failures = 0;
  while (!context.signal.aborted) {
    try {
      await bell.listen();
      const worked = await loadNext(context);
      failures = 0;
      if (worked) continue;
    } catch (error) {
      if (context.signal.aborted) break;
      failures += 1;
      context.log.error({ err: describeError(error), failures }, 'the loader cannot work; it goes on trying');
    }
    await bell.rung(pollIntervalMs);
  }
  await bell.close();
}

/** Hears the NOTIFY of a queued revision on a connection of its own, which is made again when it is lost. */
class QueueBell {
  readonly #context: LoaderContext;
  #client: pg.Client | undefined;
  #ring: () => void = () => {};
  #hasRung = false;

  constructor(context: LoaderContext) {
    this.#context = context;
  }

  async listen(): Promise<void> {
    if (this.#client !== undefined) return;
    const client = await connect({
      ...this.#context.connection,
      applicationName: 'ingest-api load (queue)',
    });
    client.on('end', () => {
      if (this.#client === client) this.#client = undefined;
    });
    client.on('notification', () => {
      this.#hasRung = true;
      this.#ring();
    });
    await client.query(`LISTEN ${QUEUE_CHANNEL}`);
    this.#client = client;
  }

  /** Resolves at once when it rang since the last call; else with the next ring, after `timeoutMs`, or at the stop. */
  async rung(timeoutMs: number): Promise<void> {
    const { signal } = this.#context;
    if (!this.#hasRung && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          signal.removeEventListener('abort', done);
          resolve();
        };
        const timer = setTimeout(done, timeoutMs);
        this.#ring = done;
        signal.addEventListener('abort', done, { once: true });
      });
    }
    this.#ring = () => {};
    this.#hasRung = false;
  }

  async close(): Promise<void> {
    await this.#client?.end().catch(() => {});
  }
}
