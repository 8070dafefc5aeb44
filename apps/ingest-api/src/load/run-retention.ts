import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from 'pino';
import { destroyConnection } from '../destroy-connection.ts';
import { describeError } from '../errors.ts';
import { retireRevisions } from './retire-revisions.ts';

/** Readers that stay longer are left to the next sweep. */
const PATIENCE_MS = 30_000;

export interface RetentionContext {
  readonly clientConfig: pg.ClientConfig;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Sweeps every `everyMs`, until the signal is aborted: any number of loaders may, and one at a time does. */
export async function runRetention(context: RetentionContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  while (!signal.aborted) {
    await sweepOnce(context).catch((error: unknown) => {
      if (!signal.aborted) log.warn({ err: describeError(error) }, 'old rows could not be cleared away');
    });
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
  }
}

async function sweepOnce({ clientConfig, log, signal }: RetentionContext): Promise<void> {
  const client = new pg.Client({ ...clientConfig, application_name: 'ingest-api load (retention)' });
  client.on('error', () => {}); // fails the query under way, which is where it is handled
  // What is under way goes on in the server, or is resumed by the next sweep.
  const cut = () => destroyConnection(client, 'the loader was told to stop');
  signal.addEventListener('abort', cut, { once: true });
  try {
    await client.connect();
    const { dropped, waiting, refused } = await retireRevisions(client, PATIENCE_MS);
    for (const { model, run, revision } of dropped)
      log.info({ model, run, revision }, 'rows cleared away: the revision is past retention');
    for (const { model, run, revision } of waiting)
      log.info({ model, run, revision }, 'rows past retention stay for now, as readers are in their table');
    for (const { model, run, revision, error } of refused)
      log.warn({ model, run, revision, err: describeError(error) }, 'rows past retention cannot be dropped');
  } finally {
    signal.removeEventListener('abort', cut);
    await client.end().catch(() => {});
  }
}
