import { setTimeout as delay } from 'node:timers/promises';
import { type Database, destroyConnection, type KeyBuild, type LoadPhase } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import { describeError, sqlStateOf } from '../errors.ts';
import { wakeLoaders } from '../runs/transitions.ts';
import { endLostAttempt, type LoadProgress, reportProgress } from './attempts.ts';
import type { LoaderContext } from './loader.ts';

const TICK_MS = 500;
/** A backend that sorts in memory works without a sign of it: it has this many times the stall time-out. */
const STALL_FACTOR_WHILE_WORKING = 10;

interface LoadWatch {
  /** Why the watch has cut the connection, if it has. */
  readonly fault: string | undefined;
  /**
   * Rejects when the watch cuts the connection: code that waits for a disk does not notice that by itself.
   */
  readonly cut: Promise<never>;
  /** Ends the watch at once, also while a report waits for a row that the load itself holds. */
  stop(): void;
  /** Resolves when the last report has ended. Await it after the load's transaction has ended. */
  reported(): Promise<void>;
}

/**
 * Reports how far a load is, and ends one that does not move for `stallTimeoutMs`: PostgreSQL receives no
 * byte of the COPY, its backend waits for one lock or disk all the time, or a file cannot be read. Cutting
 * the connection rolls the load back, and it is tried again.
 */
export function watchLoad(
  client: pg.Client,
  backendPid: number,
  attemptId: number,
  progress: LoadProgress,
  context: LoaderContext,
): LoadWatch {
  let fault: string | undefined;
  let isStopped = false;
  let seen: string | undefined;
  let movedAtMs = performance.now();
  let answeredAtMs = movedAtMs;
  let tickedAtMs = movedAtMs;
  let working: Promise<void> | undefined;
  let keyBuild: KeyBuild | undefined;

  const tick = async () => {
    const activity = await backendActivity(context.sidePool, backendPid);
    keyBuild = keyBuildAfter(keyBuild, activity?.index, progress.phaseSeconds.building_key ?? 0);
    await reportProgress(context.side, attemptId, progress, keyBuild);
    answeredAtMs = performance.now();
    if (isStopped) return;
    const now = signOfProgress(progress, activity);
    if (now !== seen) movedAtMs = performance.now();
    seen = now;
    const isWorking = progress.phase !== 'copying' && activity?.isWorking === true;
    const stallTimeoutMs = context.stallTimeoutMs * (isWorking ? STALL_FACTOR_WHILE_WORKING : 1);
    const stalledMs = performance.now() - movedAtMs;
    if (stalledMs > stallTimeoutMs) cut(stallOf(progress.phase, stalledMs, activity));
  };
  const { promise: wasCut, reject } = Promise.withResolvers<never>();
  wasCut.catch(() => {}); // whoever waits for the load handles it
  const cut = (reason: string) => {
    if (fault !== undefined || isStopped) return;
    fault = reason;
    destroyConnection(client, reason);
    reject(new Error(reason));
  };
  const timer = setInterval(() => {
    const nowMs = performance.now();
    // This process was frozen itself, which says nothing about the others. If they have ended the load, its
    // connection says so.
    if (nowMs - tickedAtMs > TICK_MS + context.stallTimeoutMs / 2) movedAtMs = answeredAtMs = nowMs;
    tickedAtMs = nowMs;
    const unansweredMs = performance.now() - answeredAtMs;
    if (unansweredMs > context.stallTimeoutMs) {
      const seconds = Math.round(unansweredMs / 1000);
      cut(
        `PostgreSQL did not answer on a second connection for ${seconds} s during the phase ${progress.phase} of the load.`,
      );
    }
    working ??= tick()
      .catch((error: unknown) =>
        context.log.warn({ err: describeError(error) }, 'progress could not be reported'),
      )
      .finally(() => {
        working = undefined;
      });
  }, TICK_MS);
  return {
    get fault() {
      return fault;
    },
    cut: wasCut,
    stop() {
      isStopped = true;
      clearInterval(timer);
    },
    async reported() {
      await working;
    },
  };
}

/** A text that stays the same while nothing moves. */
function signOfProgress(progress: LoadProgress, activity: BackendActivity | undefined): string {
  // While rows are sent, only they count: the states of the backend change with each packet.
  const backend = progress.phase === 'copying' ? '' : (activity?.sign ?? '');
  return `${progress.phase} ${progress.bytesDone} ${backend}`;
}

const STALLED: Record<LoadPhase, string> = {
  copying: 'The COPY stalled',
  building_key: 'The build of the key stalled',
  attaching: 'Attaching the partition stalled',
  publishing: 'The publication stalled',
};

function stallOf(phase: LoadPhase, stalledMs: number, activity: BackendActivity | undefined): string {
  const what = `${STALLED[phase]}: nothing moved for ${Math.round(stalledMs / 1000)} s`;
  if (activity === undefined) return `${what}, and its backend has ended.`;
  const { waitsFor } = activity;
  if (phase === 'copying' && waitsFor === 'Client/ClientRead')
    return `${what}; PostgreSQL waits for rows, and the loader for the disk with the uploads.`;
  return `${what}; PostgreSQL ${waitsFor === undefined ? 'is working' : `waits for ${waitsFor}`}.`;
}

interface BackendActivity {
  /** A text that changes while the backend works on its statement. */
  readonly sign: string;
  /** What it waits for, as `pg_stat_activity` names it; undefined while it works. */
  readonly waitsFor: string | undefined;
  readonly isWorking: boolean;
  /** The index that it builds, if it builds one. */
  readonly index: IndexProgress | undefined;
}

type IndexProgress = Pick<KeyBuild, 'step' | 'done' | 'total'>;

/**
 * What PostgreSQL shows of a backend and of the index that it builds; undefined when the backend has ended.
 */
async function backendActivity(pool: pg.Pool, backendPid: number): Promise<BackendActivity | undefined> {
  const { rows } = await asLogin(pool, (client) =>
    client.query<ActivityRow>(
      `SELECT a.state, p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
              a.wait_event_type || '/' || a.wait_event AS wait,
              concat_ws(' ', a.state, a.wait_event_type, a.wait_event, a.query_start,
                        p.phase, p.blocks_done, p.tuples_done) AS sign
       FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p USING (pid)
       WHERE a.pid = $1`,
      [backendPid],
    ),
  );
  const [row] = rows;
  if (row === undefined) return undefined;
  return {
    sign: row.sign,
    waitsFor: row.wait ?? undefined,
    isWorking: row.state === 'active' && row.wait === null,
    index: indexProgress(row),
  };
}

interface ActivityRow {
  readonly sign: string;
  readonly state: string;
  readonly wait: string | null;
  readonly phase: string | null;
  readonly blocks_done: number;
  readonly blocks_total: number;
  readonly tuples_done: number;
  readonly tuples_total: number;
}

/** The phases of a B-tree (PostgreSQL's manual, "CREATE INDEX Progress Reporting"); others count nothing. */
function indexProgress(row: ActivityRow): IndexProgress | undefined {
  switch (row.phase) {
    case 'building index: scanning table':
      return { step: 'scanning', done: row.blocks_done, total: row.blocks_total };
    case 'building index: sorting live tuples':
    case 'building index: sorting dead tuples':
      return { step: 'sorting', done: 0, total: 0 };
    case 'building index: loading tuples in tree':
      return { step: 'writing', done: row.tuples_done, total: row.tuples_total };
    default:
      return undefined;
  }
}

/** How far the build of the key is after one more tick; undefined while no key is built. */
function keyBuildAfter(
  before: KeyBuild | undefined,
  index: IndexProgress | undefined,
  seconds: number,
): KeyBuild | undefined {
  if (index === undefined) return undefined;
  const stepBeganAt =
    before === undefined || before.step !== index.step ? seconds : before.seconds - before.stepSeconds;
  return { ...index, stepSeconds: seconds - stepBeganAt, seconds };
}

/**
 * A transaction in the role of the login: the roles that it takes may neither see nor end its own sessions.
 */
async function asLogin<T>(pool: pg.Pool, work: (client: pg.ClientBase) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let failed = true;
  try {
    await client.query('BEGIN; SET LOCAL ROLE NONE');
    const result = await work(client);
    await client.query('COMMIT');
    failed = false;
    return result;
  } finally {
    client.release(failed);
  }
}

/** A load that is in progress, but whose loader does not report. */
interface FrozenLoad {
  readonly attemptId: number;
  readonly revisionId: number;
  readonly model: string;
  readonly run: string;
  readonly worker: string;
  readonly silentSeconds: number;
  readonly startedAt: string;
  /** As `pg_locks` shows it: without its epoch. */
  readonly xid: string;
}

/**
 * Ends the loads of other loaders that are frozen (SIGSTOP, a paused VM, a host that swaps). A frozen loader
 * keeps its connection, and with it the claim, for ever: to PostgreSQL, a COPY that waits for its client is
 * not idle. A live loader reports twice a second, also while PostgreSQL builds the key. Runs beside the loads
 * of this loader, until the signal is aborted.
 */
export async function endFrozenLoads(context: LoaderContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  const reported = new Set<number>();
  while (!signal.aborted) {
    try {
      for (const load of await frozenLoads(context)) await endLoad(context, load, reported);
    } catch (error) {
      if (!signal.aborted)
        log.warn({ err: describeError(error) }, 'the search for frozen loads failed; it will be repeated');
    }
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: the loader stops
  }
}

async function frozenLoads({ side, stallTimeoutMs }: LoaderContext): Promise<readonly FrozenLoad[]> {
  const { rows } = await sql<FrozenLoad>`
    SELECT a.attempt_id AS "attemptId", a.revision_id AS "revisionId", r.model, r.run_key AS run, a.worker,
           round(extract(epoch FROM now() - a.updated_at))::int AS "silentSeconds",
           a.started_at::text AS "startedAt", (a.transaction_id::text::numeric % 4294967296)::text AS xid
    FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id)
    WHERE a.finished_at IS NULL AND a.transaction_id IS NOT NULL
      AND a.updated_at < now() - ${stallTimeoutMs} * interval '1 millisecond'`.execute(side);
  return rows;
}

async function endLoad(context: LoaderContext, load: FrozenLoad, reported: Set<number>): Promise<void> {
  const { side, log, worker } = context;
  const { attemptId, revisionId, silentSeconds } = load;
  const silent = `The loader ${load.worker} did not report for ${silentSeconds} s (frozen, or far too slow)`;
  const ending = await endBackend(context.sidePool, load);
  if (typeof ending === 'object') {
    if (reported.has(attemptId)) return;
    reported.add(attemptId);
    await recordReason(side, attemptId, `${silent}, and ${worker} may not end its connection: see its log.`);
    log.error(
      { ...load, ...ending },
      `a load is frozen and cannot be ended: its login is "${ending.login}", and "${ending.ours}" may not end the sessions of that login. Use one login for all loaders, or GRANT pg_signal_backend TO "${ending.ours}". To end this load now: SELECT pg_terminate_backend(${ending.pid})`,
    );
    return;
  }
  if (ending === 'is ending') {
    log.warn(load, 'a load is frozen, and its connection has not ended yet; the next round looks again');
    return;
  }
  // Nobody may claim the run again: it may have been withdrawn since.
  await side.transaction().execute((trx) => endLostAttempt(trx, revisionId, attemptId));
  if (ending === 'ended') {
    const reason = `${silent}: ${worker} ended its connection, which rolled the load back.`;
    await recordReason(side, attemptId, reason);
    log.warn(load, 'a load was frozen; its connection was ended, and its run will be loaded again');
  } else log.warn(load, 'the loader of a load vanished; its attempt was ended');
  await wakeLoaders(side);
}

/** Skips a row that is locked: its load is ending the attempt. */
async function recordReason(side: Kysely<Database>, attemptId: number, reason: string): Promise<void> {
  await sql`
    UPDATE ingest.load_attempt SET error = ${reason}
    WHERE attempt_id IN (
      SELECT attempt_id FROM ingest.load_attempt
      WHERE attempt_id = ${attemptId} AND (finished_at IS NULL OR outcome = 'lost')
      FOR UPDATE SKIP LOCKED)`.execute(side);
}

interface NotAllowed {
  readonly pid: number;
  readonly login: string;
  readonly ours: string;
}

/**
 * The holder of a transaction's lock on its own id is the load's backend, whatever else has happened since.
 */
const ITS_BACKEND = `
  FROM pg_locks l JOIN pg_stat_activity s USING (pid)
  WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.transactionid::text = $1
    AND coalesce(s.xact_start <= $2::timestamptz, true)`; // a restored database may use the same ids again

const INSUFFICIENT_PRIVILEGE = '42501';

async function endBackend(
  pool: pg.Pool,
  { xid, startedAt }: FrozenLoad,
): Promise<'ended' | 'is ending' | 'is over' | NotAllowed> {
  return asLogin(pool, async (client) => {
    const { rows } = await client.query<NotAllowed>(
      `SELECT pid, coalesce(s.usename, '?') AS login, session_user AS ours ${ITS_BACKEND}`,
      [xid, startedAt],
    );
    const [backend] = rows;
    if (backend === undefined) return 'is over';
    try {
      const { rows: ended } = await client.query<{ hasEnded: boolean }>(
        `SELECT pg_terminate_backend(pid, 5000) AS "hasEnded" ${ITS_BACKEND}`,
        [xid, startedAt],
      );
      if (ended[0] === undefined) return 'is over';
      return ended[0].hasEnded ? 'ended' : 'is ending';
    } catch (error) {
      if (sqlStateOf(error) !== INSUFFICIENT_PRIVILEGE) throw error;
      return backend; // the COMMIT of a failed transaction rolls it back
    }
  });
}
