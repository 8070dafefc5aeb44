import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect } from 'db-schema';
import type pg from 'pg';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import { retireRevisions } from './retire-revisions.ts';

/** Readers that stay longer are left to the next sweep. */
const PATIENCE_MS = 30_000;
/** How often a sweep says that it has not ended yet. */
const STAYS_EVERY_MS = 15_000;

export interface RetentionContext {
  readonly connection: ConnectOptions;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Sweeps every `everyMs`, until the signal is aborted: any number of loaders may, and one at a time does. */
export async function runRetention(context: RetentionContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  while (!signal.aborted) {
    await sweepOnce(context).catch((error: unknown) => {
      if (!signal.aborted) log.warn({ err: describeError(error) }, 'old rows could not be dropped');
    });
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
  }
}

/** @throws whatever PostgreSQL answered; what is under way then is resumed by the next sweep. */
async function sweepOnce(context: RetentionContext): Promise<void> {
  const { log } = context;
  await onConnection(context, (turn) =>
    onConnection(context, async (client) => {
      // A lock that readers cannot take, for as long as the sweep: DETACH CONCURRENTLY allows no transaction around it.
      // A loader that is frozen loses its turn.
      await turn.query(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2min'`);
      const mine = await turn.query(`SELECT FROM ingest.sweep WHERE name = 'rows' FOR UPDATE SKIP LOCKED`);
      if (mine.rows.length === 0) return;
      const staying = setInterval(() => turn.query('SELECT').catch(() => {}), STAYS_EVERY_MS);
      const { dropped, waiting, refused } = await retireRevisions(client, PATIENCE_MS).finally(() =>
        clearInterval(staying),
      );
      for (const { model, run, revision } of dropped)
        log.info({ model, run, revision }, 'rows dropped: the revision is past retention');
      for (const { model, run, revision } of waiting)
        log.info({ model, run, revision }, 'rows past retention stay for now, as readers are in their table');
      for (const { model, run, revision, error } of refused)
        log.warn(
          { model, run, revision, err: describeError(error) },
          'rows past retention cannot be dropped',
        );
    }),
  );
}

async function onConnection(
  { connection, signal }: RetentionContext,
  work: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = await connect({ ...connection, applicationName: 'ingest-api load (retention)' }, signal);
  try {
    await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}
