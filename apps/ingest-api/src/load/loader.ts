import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect, type Database, destroyConnection, STATISTICS_TARGET } from 'db-schema';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { Logger } from 'pino';
import { describeError } from '../errors.ts';
import type { RunLimits } from '../runs/models.ts';
import { announcePublication, QUEUE_CHANNEL } from '../runs/transitions.ts';
import type { Store } from '../store/store.ts';
import {
  type ClaimedRevision,
  claimNextLoad,
  endAttemptForRetry,
  LoadProgress,
  retryDelayMs,
  startAttempt,
} from './attempts.ts';
import { recordRefusal, refusalOfRows } from './faults.ts';
import { type EndedLoad, loadRevision } from './load.ts';
import { watchLoad } from './watchdog.ts';

/** What a loader works with; made once, in `commands/load.ts`. */
export interface LoaderContext {
  readonly connection: ConnectOptions;
  readonly side: Kysely<Database>;
  readonly sidePool: pg.Pool;
  readonly store: Store;
  /** host:pid, to find the process that works on a load. */
  readonly worker: string;
  readonly maintenanceWorkMem: string;
  readonly stallTimeoutMs: number;
  readonly runLimits: RunLimits;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/**
 * Loads queued revisions, one at a time, until `context.signal` is aborted. A NOTIFY wakes it; every
 * `pollIntervalMs` it also reads the queue for what nothing notifies about: an attempt that is due, a loader
 * that died.
 */
export async function runLoader(context: LoaderContext, pollIntervalMs: number): Promise<void> {
  const queue = new QueueListener(context);
  let failures = 0;
  while (!context.signal.aborted) {
    const startedMs = performance.now();
    try {
      await loadAllDue(context, queue);
      failures = 0;
    } catch (error) {
      if (context.signal.aborted) break;
      failures += 1;
      context.log.error({ err: describeError(error), failures }, 'the loader cannot work; it keeps trying');
    }
    await pause(startedMs + READ_EVERY_MS - performance.now(), context.signal);
    await queue.notified(pollIntervalMs);
  }
  await queue.close();
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0 && !signal.aborted) await delay(ms, undefined, { signal }).catch(() => {}); // aborted: the loader stops
}

/** A NOTIFY is followed by at most one reading of the queue in this time: every login of the database may send them. */
const READ_EVERY_MS = 100;

const CLAIM_TIMEOUT_MS = 30_000;

/**
 * Claims and loads revisions until none is due. They share a connection, whose catalogs are warm then, for as long as each
 * load ends with its COMMIT. A fault of the machinery is recorded on the attempt, and any loader tries the revision again
 * later.
 *
 * @throws when a claim fails, or a fault cannot be recorded: the database cannot be reached.
 */
async function loadAllDue(context: LoaderContext, queue: QueueListener): Promise<void> {
  for (;;) {
    await queue.listen();
    const client = await connect(context.connection, context.signal);
    try {
      for (let isUsable = true; isUsable; ) {
        const claimed = await withTimeout(client, CLAIM_TIMEOUT_MS, async () => {
          await beginLoad(client, context);
          return claimNextLoad(client);
        });
        if (claimed === undefined) return;
        isUsable = await attemptLoad(client, claimed, context);
        await queue.listen(); // the service counts loaders by it
      }
    } finally {
      await client.end().catch(() => {}); // the server rolls back an open transaction when its connection ends
    }
    if (context.signal.aborted) return;
  }
}

/**
 * The server notices within 2 s that this process has ended, even while it builds an index, and rolls back.
 * It notices a dead host by the TCP settings of every connection (`connect.ts`), and a process that is silent
 * between two statements by the time-out for idle transactions.
 *
 * No I/O workers that read ahead (PostgreSQL 18): the rows that the key is built from were written a moment
 * ago, in order, and the kernel reads ahead where they are not in memory any more. The workers would take the
 * cores that sort.
 */
async function beginLoad(client: pg.Client, { maintenanceWorkMem }: LoaderContext): Promise<void> {
  await client.query('BEGIN');
  await client.query(`
    SET LOCAL client_connection_check_interval = '2s';
    SET LOCAL idle_in_transaction_session_timeout = '5min';
    SET LOCAL statement_timeout = 0;
    SET LOCAL effective_io_concurrency = 0;
    SET LOCAL maintenance_io_concurrency = 0;
    SET LOCAL default_statistics_target = ${STATISTICS_TARGET};
    SET LOCAL maintenance_work_mem = '${maintenanceWorkMem}'`);
}

/** @returns whether the connection can be used for the next load: PostgreSQL has answered the COMMIT of this one. */
async function attemptLoad(
  client: pg.Client,
  claimed: ClaimedRevision,
  context: LoaderContext,
): Promise<boolean> {
  const { side, log } = context;
  const { model, run: runKey, revision } = claimed;
  const backendPid = await backendPidOf(client);
  const started = await startAttempt(side, claimed, context.worker);
  if (started === 'must wait') {
    log.warn(
      { model, run: runKey, revision },
      'several loaders of this run vanished in a row; its next attempt is due later',
    );
    return false;
  }
  const { attemptId, attempt } = started;
  const run = { model, run: runKey, revision, attempt };
  log.info(run, 'load started');
  const progress = new LoadProgress();
  const watch = watchLoad(client, backendPid, attemptId, progress, context);
  let ended: EndedLoad;
  let isUsable: boolean;
  try {
    ended = await Promise.race([
      loadRevision(client, claimed, { ...context, attemptId, progress }),
      watch.cut,
    ]);
    // The transaction holds the attempt's row now: a report would wait for COMMIT, and COMMIT must not wait
    // for it.
    watch.stop();
    isUsable = await commit(client, side, attemptId, context.stallTimeoutMs);
    await watch.reported();
  } catch (cause) {
    watch.stop();
    const fault =
      watch.fault === undefined
        ? await refusalOfRows(side, claimed, { attempt, phase: progress.phase, cause })
        : undefined;
    if (fault !== undefined) {
      log.error({ ...run, err: describeError(cause) }, 'load failed: PostgreSQL refuses a row of the run');
      destroyConnection(client, 'the load failed'); // it ends the claim, which holds the row to be written
      await recordRefusal(side, claimed.revisionId, attemptId, { fault, cause });
      return false;
    }
    const reason = watch.fault ?? describeError(cause);
    const delayMs = context.signal.aborted ? 0 : retryDelayMs(attempt);
    // Recorded before the claim ends, so that the next loader sees when the next attempt is due.
    if (await endAttemptForRetry(side, attemptId, reason, delayMs))
      log.warn({ ...run, err: reason, delayMs }, 'load broke off; it will be tried again');
    else log.warn({ ...run, err: reason }, 'load broke off; another loader has taken the run over');
    return false;
  }
  const { outcome, reason } = ended;
  if (reason !== null) {
    log.error(
      { ...run, err: reason },
      'load ended: the disk has lost bytes of the run, which waits for them again',
    );
    return isUsable;
  }
  if (outcome === 'published')
    await announcePublication(side, model).catch((error: unknown) =>
      log.warn({ ...run, err: describeError(error) }, 'the publication could not be announced to listeners'),
    );
  const { rowsDone: rows, seconds, phaseSeconds } = progress;
  log.info({ ...run, outcome, rows, seconds, phaseSeconds }, 'load ended');
  return isUsable;
}

async function backendPidOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const [row] = rows;
  if (row === undefined) throw new Error('PostgreSQL did not answer with the process id of the connection.');
  return row.pid;
}

/**
 * A connection that is lost at COMMIT leaves the outcome unknown, not failed: the attempt's row, which is
 * part of it, decides.
 *
 * @returns whether PostgreSQL has answered.
 * @throws when the transaction was rolled back.
 */
async function commit(
  client: pg.Client,
  side: Kysely<Database>,
  attemptId: number,
  timeoutMs: number,
): Promise<boolean> {
  try {
    await withTimeout(client, timeoutMs, () => client.query('COMMIT'));
    return true;
  } catch (error) {
    // FOR UPDATE waits until the server has ended the transaction that wrote the row.
    const row = await side
      .selectFrom('ingest.load_attempt')
      .select('outcome')
      .where('attempt_id', '=', attemptId)
      .forUpdate()
      .executeTakeFirst();
    // `lost`: another process saw that it was rolled back.
    if (row?.outcome == null || row.outcome === 'lost') throw error;
    return false;
  }
}

/**
 * Cuts the connection when `work` takes longer: a server that hangs answers nothing, not even a cancel
 * request.
 */
async function withTimeout<T>(client: pg.Client, timeoutMs: number, work: () => Promise<T>): Promise<T> {
  const reason = `PostgreSQL did not answer within ${Math.round(timeoutMs / 1000)} s.`;
  const timer = setTimeout(() => destroyConnection(client, reason), timeoutMs);
  try {
    return await work();
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Receives the NOTIFY of a queued revision on a connection of its own, which it opens again when it is lost.
 */
class QueueListener {
  readonly #context: LoaderContext;
  #client: pg.Client | undefined;
  #wake: () => void = () => {};
  #hasNotice = false;

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
      this.#hasNotice = true;
      this.#wake();
    });
    await client.query(`LISTEN ${QUEUE_CHANNEL}`);
    this.#client = client;
  }

  /**
   * Resolves at once when a NOTIFY has arrived since the last call; else with the next one, after
   * `timeoutMs`, or when the loader stops.
   */
  async notified(timeoutMs: number): Promise<void> {
    const { signal } = this.#context;
    if (!this.#hasNotice && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          signal.removeEventListener('abort', done);
          resolve();
        };
        const timer = setTimeout(done, timeoutMs);
        this.#wake = done;
        signal.addEventListener('abort', done, { once: true });
      });
    }
    this.#wake = () => {};
    this.#hasNotice = false;
  }

  async close(): Promise<void> {
    await this.#client?.end().catch(() => {});
  }
}
