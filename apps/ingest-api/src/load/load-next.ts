import type { Database, LoadOutcome } from 'db-schema';
import type { Kysely } from 'kysely';
import pg from 'pg';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import { type ClaimedRevision, claimNextLoad } from './claim-next-load.ts';
import {
  endAttemptForRetry,
  type LoadProgress,
  reportProgress,
  retryDelayMs,
  startAttempt,
} from './load-attempts.ts';
import { loadRevision } from './load-revision.ts';

export interface LoaderContext {
  readonly clientConfig: pg.ClientConfig;
  readonly side: Kysely<Database>;
  readonly sidePool: pg.Pool;
  readonly dataDir: string;
  /** host:pid, to find the process that works on a load. */
  readonly worker: string;
  readonly maintenanceWorkMem: string;
  readonly stallTimeoutMs: number;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

const REPORT_EVERY_MS = 500;

/**
 * Claims and loads one revision, if one is due, on a connection of its own. A fault of the machinery is
 * recorded on the attempt, and the revision is tried again later by whoever comes first.
 *
 * @returns false when there was nothing to do.
 * @throws when not even a claim could be made, or the fault not recorded: the database is out of reach.
 */
export async function loadNext(context: LoaderContext): Promise<boolean> {
  const client = new pg.Client(context.clientConfig);
  client.on('error', () => {}); // a lost connection fails the query that is under way, which is where it is handled
  const cut = () => destroyConnection(client, 'the loader was told to stop');
  context.signal.addEventListener('abort', cut, { once: true });
  try {
    await client.connect();
    await beginLoad(client, context);
    const claimed = await claimNextLoad(client);
    if (claimed === undefined) {
      await client.query('ROLLBACK');
      return false;
    }
    await attemptLoad(client, claimed, context);
    return true;
  } finally {
    context.signal.removeEventListener('abort', cut);
    await endQuietly(client);
  }
}

/**
 * The server notices within 2 s that this process has gone, even while it builds an index, and rolls back;
 * a dead host is noticed by the keepalives, a server that waits for us by the last setting.
 */
async function beginLoad(client: pg.Client, { maintenanceWorkMem }: LoaderContext): Promise<void> {
  await client.query('BEGIN');
  await client.query(`
    SET LOCAL client_connection_check_interval = '2s';
    SET LOCAL tcp_keepalives_idle = 15;
    SET LOCAL tcp_keepalives_interval = 5;
    SET LOCAL tcp_keepalives_count = 3;
    SET LOCAL tcp_user_timeout = '30s';
    SET LOCAL idle_in_transaction_session_timeout = '5min';
    SET LOCAL statement_timeout = 0;
    SET LOCAL maintenance_work_mem = '${maintenanceWorkMem}'`);
}

async function attemptLoad(
  client: pg.Client,
  claimed: ClaimedRevision,
  context: LoaderContext,
): Promise<void> {
  const { side, log } = context;
  const { attemptId, attempt } = await startAttempt(side, claimed.revisionId, context.worker);
  const run = { model: claimed.model, run: claimed.run, revision: claimed.revision, attempt };
  log.info(run, 'load started');
  const startedMs = performance.now();
  const progress: LoadProgress = { phase: 'copying', bytesDone: 0, rowsDone: 0 };
  const watch = watchProgress(client, attemptId, progress, context);
  let outcome: LoadOutcome;
  try {
    outcome = await loadRevision(client, claimed, { ...context, attemptId, progress });
    await watch.stop();
    await commit(client, side, attemptId);
  } catch (error) {
    await watch.stop();
    const delayMs = context.signal.aborted ? 0 : retryDelayMs(attempt);
    const reason = watch.fault ?? describeError(error);
    log.warn({ ...run, err: reason, delayMs }, 'load broke off; it will be tried again');
    // Recorded before the claim ends, so that the next loader sees when the next try is due.
    await endAttemptForRetry(side, attemptId, reason, delayMs);
    return;
  }
  log.info(
    { ...run, outcome, rows: progress.rowsDone, seconds: (performance.now() - startedMs) / 1000 },
    'load ended',
  );
}

/** A connection that is lost at COMMIT leaves it unknown, not failed: the attempt's row tells (it is part of it). */
async function commit(client: pg.Client, side: Kysely<Database>, attemptId: number): Promise<void> {
  try {
    await client.query('COMMIT');
  } catch (error) {
    // FOR UPDATE waits until the server has made up its mind about the transaction that wrote the row.
    const row = await side
      .selectFrom('ingest.load_attempt')
      .select('outcome')
      .where('attempt_id', '=', attemptId)
      .forUpdate()
      .executeTakeFirst();
    if (row?.outcome == null) throw error;
  }
}

interface ProgressWatch {
  /** Set when the watch has cut the connection. */
  readonly fault: string | undefined;
  stop(): Promise<void>;
}

/** Tells how far the load is, and cuts a COPY that the server does not take a byte of any more. */
function watchProgress(
  client: pg.Client,
  attemptId: number,
  progress: LoadProgress,
  context: LoaderContext,
): ProgressWatch {
  let fault: string | undefined;
  let seenBytes = -1;
  let movedAtMs = performance.now();
  let reporting: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    if (progress.phase !== 'copying' || progress.bytesDone !== seenBytes) movedAtMs = nowMs;
    seenBytes = progress.bytesDone;
    if (fault === undefined && nowMs - movedAtMs > context.stallTimeoutMs) {
      fault = `The COPY stalled: PostgreSQL took no byte for ${Math.round(context.stallTimeoutMs / 1000)} s.`;
      destroyConnection(client, fault);
    }
    reporting = reporting
      .then(() => reportProgress(context.side, attemptId, progress))
      .catch((error: unknown) =>
        context.log.warn({ err: describeError(error) }, 'progress could not be reported'),
      );
  }, REPORT_EVERY_MS);
  return {
    get fault() {
      return fault;
    },
    async stop() {
      clearInterval(timer);
      await reporting;
    },
  };
}

/** Ends a connection without waiting for the server; queries under way are rejected. */
function destroyConnection(client: pg.Client, reason: string): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(error: Error): void } } };
  connection.stream.destroy(new Error(reason));
}

/** The transaction, if one is open, is rolled back by the server when the connection ends. */
async function endQuietly(client: pg.Client): Promise<void> {
  await client.end().catch(() => {});
}
