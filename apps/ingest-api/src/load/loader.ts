import { type ConnectOptions, connect, type Database, destroyConnection, type LoadOutcome } from 'db-schema';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import type { RunLimits } from '../runs/models.ts';
import { QUEUE_CHANNEL } from '../runs/transitions.ts';
import { type ClaimedRevision, claimNextLoad, endAttemptForRetry, startAttempt } from './attempts.ts';
import { loadRevision, PhaseClock } from './load.ts';
import { isRefusalOfRows, refuseRevision, wasRefusedBefore } from './rejects.ts';
import { watchLoad } from './watchdog.ts';

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

/** What a loader works with; made once, in `commands/load.ts`. */
export interface LoaderContext {
  readonly connection: ConnectOptions;
  readonly side: Kysely<Database>;
  readonly sidePool: pg.Pool;
  readonly dataDir: string;
  /** host:pid, to find the process that works on a load. */
  readonly worker: string;
  readonly maintenanceWorkMem: string;
  readonly stallTimeoutMs: number;
  readonly runLimits: RunLimits;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

const CLAIM_WITHIN_MS = 30_000;

/**
 * Claims and loads one revision, if one is due, on a connection of its own. A fault of the machinery is
 * recorded on the attempt, and the revision is tried again later by whoever comes first.
 *
 * @returns false when there was nothing to do.
 * @throws when not even a claim could be made, or the fault not recorded: the database is out of reach.
 */
async function loadNext(context: LoaderContext): Promise<boolean> {
  const client = await connect(context.connection, context.signal);
  try {
    const claimed = await withPatience(client, CLAIM_WITHIN_MS, async () => {
      await beginLoad(client, context);
      return claimNextLoad(client);
    });
    // Nothing to roll back but the transaction itself, which ends with the connection.
    if (claimed === undefined) return false;
    await attemptLoad(client, claimed, context);
    return true;
  } finally {
    await endQuietly(client);
  }
}

/**
 * The server notices within 2 s that this process has gone, even while it builds an index, and rolls back;
 * a dead host is noticed by what every connection asks of TCP (`connect.ts`); a process that says nothing between two
 * statements by the time-out for idle transactions.
 *
 * No reading ahead by other processes (PostgreSQL 18's I/O workers): what the key is built over has just been written, in
 * order, and the kernel reads ahead where it is not in memory any more. They would take the cores that sort.
 */
async function beginLoad(client: pg.Client, { maintenanceWorkMem }: LoaderContext): Promise<void> {
  await client.query('BEGIN');
  await client.query(`
    SET LOCAL client_connection_check_interval = '2s';
    SET LOCAL idle_in_transaction_session_timeout = '5min';
    SET LOCAL statement_timeout = 0;
    SET LOCAL effective_io_concurrency = 0;
    SET LOCAL maintenance_io_concurrency = 0;
    SET LOCAL maintenance_work_mem = '${maintenanceWorkMem}'`);
}

async function attemptLoad(
  client: pg.Client,
  claimed: ClaimedRevision,
  context: LoaderContext,
): Promise<void> {
  const { side, log } = context;
  const backendPid = await backendPidOf(client);
  const { model, run: runKey, revision } = claimed;
  const started = await startAttempt(side, claimed, context.worker);
  if (started === 'must wait') {
    log.warn(
      { model, run: runKey, revision },
      'loaders of this run vanished again and again; it has to wait',
    );
    return;
  }
  const { attemptId, attempt } = started;
  const run = { model, run: runKey, revision, attempt };
  log.info(run, 'load started');
  const startedMs = performance.now();
  const progress = new PhaseClock();
  const watch = watchLoad(client, backendPid, attemptId, progress, context);
  let ended: { readonly outcome: LoadOutcome; readonly reason: string | null };
  try {
    ended = await Promise.race([
      loadRevision(client, claimed, { ...context, attemptId, progress }),
      watch.cut,
    ]);
    // Its row is held by the transaction now: a report would wait for COMMIT, and COMMIT must not wait for it.
    watch.stop();
    await commit(client, side, attemptId, context.stallTimeoutMs);
    await watch.reported();
  } catch (error) {
    watch.stop();
    if (
      watch.fault === undefined &&
      isRefusalOfRows(error, progress.phase) &&
      (await wasRefusedBefore(side, claimed.revisionId, attempt, error))
    ) {
      log.error({ ...run, err: describeError(error) }, 'load failed: PostgreSQL refuses a row of it');
      destroyConnection(client, 'the load failed'); // and with it the claim, which holds the row to be written
      await refuseRevision(side, claimed.revisionId, attemptId, error);
      return;
    }
    const delayMs = context.signal.aborted ? 0 : retryDelayMs(attempt);
    const reason = watch.fault ?? describeError(error);
    // Recorded before the claim ends, so that the next loader sees when the next try is due.
    if (await endAttemptForRetry(side, attemptId, reason, delayMs))
      log.warn({ ...run, err: reason, delayMs }, 'load broke off; it will be tried again');
    else log.warn({ ...run, err: reason }, 'load broke off; another loader has taken the run over');
    return;
  }
  const { outcome, reason } = ended;
  if (reason !== null) {
    log.error(
      { ...run, err: reason },
      'load ended: the disk has lost bytes of the run, which waits for them again',
    );
    return;
  }
  log.info(
    {
      ...run,
      outcome,
      rows: progress.rowsDone,
      seconds: (performance.now() - startedMs) / 1000,
      phaseSeconds: progress.phaseSeconds,
    },
    'load ended',
  );
}

/** A connection that is lost at COMMIT leaves it unknown, not failed: the attempt's row tells (it is part of it). */
async function commit(
  client: pg.Client,
  side: Kysely<Database>,
  attemptId: number,
  patienceMs: number,
): Promise<void> {
  try {
    await withPatience(client, patienceMs, () => client.query('COMMIT'));
  } catch (error) {
    // FOR UPDATE waits until the server has made up its mind about the transaction that wrote the row.
    const row = await side
      .selectFrom('ingest.load_attempt')
      .select('outcome')
      .where('attempt_id', '=', attemptId)
      .forUpdate()
      .executeTakeFirst();
    // `lost`: others saw that it was rolled back.
    if (row?.outcome == null || row.outcome === 'lost') throw error;
  }
}

/** Cuts the connection when `work` takes longer: a server that hangs answers nothing, not even a cancel. */
async function withPatience<T>(client: pg.Client, patienceMs: number, work: () => Promise<T>): Promise<T> {
  const reason = `PostgreSQL did not answer within ${Math.round(patienceMs / 1000)} s.`;
  const timer = setTimeout(() => destroyConnection(client, reason), patienceMs);
  try {
    return await work();
  } finally {
    clearTimeout(timer);
  }
}

async function backendPidOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const [row] = rows;
  if (row === undefined) throw new Error('PostgreSQL did not tell the process id of the connection.');
  return row.pid;
}

/** The transaction, if one is open, is rolled back by the server when the connection ends. */
async function endQuietly(client: pg.Client): Promise<void> {
  await client.end().catch(() => {});
}

const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 5 * 60_000;

/** Exponential backoff with half of it jitter: 1 s, 2 s, 4 s … 5 min. */
export function retryDelayMs(attempt: number, random: () => number = Math.random): number {
  const full = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt - 1, 20));
  return Math.round(full / 2 + (random() * full) / 2);
}
