import { setTimeout as delay } from 'node:timers/promises';
import { type Database, destroyConnection, type KeyBuild, type LoadPhase } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import { describeError, sqlStateOf } from '../errors.ts';
import { wakeLoaders } from '../runs/transitions.ts';
import { type LoadProgress, noteLostAttempt, reportProgress } from './attempts.ts';
import { followKeyBuild } from './load.ts';
import type { LoaderContext } from './loader.ts';

const TICK_MS = 500;
/** A backend that works shows no sign of it while it sorts in memory: it gets this many times the patience. */
const PATIENCE_WITH_WORK = 10;

interface LoadWatch {
  /** Why the watch has cut the connection, if it has. */
  readonly fault: string | undefined;
  /** Rejects when the watch cuts the connection: what waits for a disk does not hear of that by itself. */
  readonly cut: Promise<never>;
  /** Ends the watch at once, also while a report waits for a row that the load itself holds. */
  stop(): void;
  /** Resolves when the last report is over: to be awaited after the load's transaction has ended. */
  reported(): Promise<void>;
}

/**
 * Tells how far a load is, and ends one that does not move: a COPY that takes no byte, a backend that waits for
 * the same lock or disk all the time (`stallTimeoutMs`), a file that cannot be read. Its connection is cut,
 * which rolls it back, and it is tried again.
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
    keyBuild = followKeyBuild(keyBuild, activity?.index, progress.phaseSeconds.building_key ?? 0);
    await reportProgress(context.side, attemptId, progress, keyBuild);
    answeredAtMs = performance.now();
    if (isStopped) return;
    const now = signOfLife(progress, activity);
    if (now !== seen) movedAtMs = performance.now();
    seen = now;
    const patience = progress.phase !== 'copying' && activity?.isWorking === true ? PATIENCE_WITH_WORK : 1;
    const stillMs = performance.now() - movedAtMs;
    if (stillMs > context.stallTimeoutMs * patience) cut(stallOf(progress.phase, stillMs, activity));
  };
  const { promise: wasCut, reject } = Promise.withResolvers<never>();
  wasCut.catch(() => {}); // heard by whoever waits for the load
  const cut = (reason: string) => {
    if (fault !== undefined || isStopped) return;
    fault = reason;
    destroyConnection(client, reason);
    reject(new Error(reason));
  };
  const timer = setInterval(() => {
    const nowMs = performance.now();
    // This process was stopped itself: it says nothing about the others. When they have ended the load, that is heard.
    if (nowMs - tickedAtMs > TICK_MS + context.stallTimeoutMs / 2) movedAtMs = answeredAtMs = nowMs;
    tickedAtMs = nowMs;
    const unansweredMs = performance.now() - answeredAtMs;
    if (unansweredMs > context.stallTimeoutMs) {
      const seconds = Math.round(unansweredMs / 1000);
      cut(
        `PostgreSQL did not answer on a second connection for ${seconds} s while the load was ${progress.phase}.`,
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
function signOfLife(progress: LoadProgress, activity: BackendActivity | undefined): string {
  // While rows are sent, only they count: the states of the backend change with each packet.
  const backend = progress.phase === 'copying' ? '' : (activity?.sign ?? '');
  return `${progress.phase} ${progress.bytesDone} ${backend}`;
}

const DOES: Record<LoadPhase, string> = {
  copying: 'The COPY stalled',
  building_key: 'The build of the key stalled',
  attaching: 'Attaching the partition stalled',
  publishing: 'The publication stalled',
};

function stallOf(phase: LoadPhase, stillMs: number, activity: BackendActivity | undefined): string {
  const seconds = Math.round(stillMs / 1000);
  const what = `${DOES[phase] ?? 'The load stalled'}: nothing moved for ${seconds} s`;
  if (activity === undefined) return `${what}, and its backend has gone.`;
  if (phase === 'copying' && waitsForUs(activity))
    return `${what}; PostgreSQL waits for rows, and the loader for the disk with the uploads.`;
  return `${what}; PostgreSQL ${activity.waitsFor === undefined ? 'is at work' : `waits for ${activity.waitsFor}`}.`;
}

/** A load that is in progress, and that its loader does not report of. */
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
 * Ends the loads of other loaders that are frozen (SIGSTOP, a paused VM, a host that swaps): such a one keeps its
 * connection, and with it the claim, for ever, and a COPY that waits for its client is not idle to PostgreSQL. A live
 * loader reports twice a second, also while PostgreSQL builds the key. Runs beside the loads of this loader, until the
 * signal is aborted.
 */
export async function endFrozenLoads(context: LoaderContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  const reported = new Set<number>();
  while (!signal.aborted) {
    try {
      for (const load of await frozenLoads(context)) await endLoad(context, load, reported);
    } catch (error) {
      if (!signal.aborted)
        log.warn({ err: describeError(error) }, 'frozen loads could not be looked for; tried again');
    }
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
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
  // Before it is ended: whoever claims the run in the same moment finds the reason there.
  await noteReason(
    side,
    attemptId,
    `${silent}: ${worker} ended its connection, which rolled its transaction back.`,
  );
  const ending = await endBackend(context.sidePool, load);
  if (ending === 'is over') return; // whoever claims the run next notes that it was lost
  if (ending !== 'ended') {
    await noteReason(side, attemptId, `${silent}, and ${worker} may not end its connection: see its log.`);
    if (reported.has(attemptId)) return;
    reported.add(attemptId);
    log.error(
      { ...load, ...ending },
      `a load is frozen and cannot be ended: its login is "${ending.login}", and "${ending.ours}" may not end its sessions. Use one login for all loaders, or GRANT pg_signal_backend TO "${ending.ours}"; now: SELECT pg_terminate_backend(${ending.pid})`,
    );
    return;
  }
  await side.transaction().execute((trx) => noteLostAttempt(trx, revisionId, attemptId));
  log.warn(load, 'a load was frozen and has been ended; its run is loaded again');
  await wakeLoaders(side);
}

/** A row that is locked is being finished by its load. */
async function noteReason(side: Kysely<Database>, attemptId: number, reason: string): Promise<void> {
  await sql`
    UPDATE ingest.load_attempt SET error = ${reason}
    WHERE attempt_id IN (
      SELECT attempt_id FROM ingest.load_attempt WHERE attempt_id = ${attemptId} AND finished_at IS NULL
      FOR UPDATE SKIP LOCKED)`.execute(side);
}

interface NotAllowed {
  readonly pid: number;
  readonly login: string;
  readonly ours: string;
}

/** A transaction is known by its id: whoever holds that lock is the load's backend, whatever else has happened since. */
const ITS_BACKEND = `
  FROM pg_locks l JOIN pg_stat_activity s USING (pid)
  WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.transactionid::text = $1
    AND coalesce(s.xact_start <= $2::timestamptz, true)`; // ids of a restored database may come again

async function endBackend(
  pool: pg.Pool,
  { xid, startedAt }: FrozenLoad,
): Promise<'ended' | 'is over' | NotAllowed> {
  const client = await pool.connect();
  let failed = true;
  try {
    // A login may end its own sessions, the role that it takes may not.
    await client.query('BEGIN; SET LOCAL ROLE NONE');
    const { rows } = await client.query<NotAllowed>(
      `SELECT pid, coalesce(s.usename, '?') AS login, session_user AS ours ${ITS_BACKEND}`,
      [xid, startedAt],
    );
    const [backend] = rows;
    if (backend === undefined) {
      await client.query('COMMIT');
      failed = false;
      return 'is over';
    }
    try {
      await client.query(`SELECT pg_terminate_backend(pid, 5000) ${ITS_BACKEND}`, [xid, startedAt]);
    } catch (error) {
      if (sqlStateOf(error) !== '42501') throw error;
      await client.query('ROLLBACK');
      failed = false;
      return backend;
    }
    await client.query('COMMIT');
    failed = false;
    return 'ended';
  } finally {
    client.release(failed);
  }
}

interface BackendActivity {
  /** A text that changes while the backend gets on with its statement. */
  readonly sign: string;
  /** What it waits for, as `pg_stat_activity` names it; undefined while it works. */
  readonly waitsFor: string | undefined;
  readonly isWorking: boolean;
  /** The index that it builds, if it builds one. */
  readonly index: IndexProgress | undefined;
}

export type IndexProgress = Pick<KeyBuild, 'step' | 'done' | 'total'>;

/** What PostgreSQL tells of a backend and of the index it builds; undefined when it has gone. */
async function backendActivity(pool: pg.Pool, backendPid: number): Promise<BackendActivity | undefined> {
  const client = await pool.connect();
  let failed = true;
  try {
    // A backend is shown to the login that it came in by, not to the role that both have taken.
    await client.query('BEGIN; SET LOCAL ROLE NONE');
    const { rows } = await client.query<ActivityRow>(
      `SELECT a.state, p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
              a.wait_event_type || '/' || a.wait_event AS wait,
              concat_ws(' ', a.state, a.wait_event_type, a.wait_event, a.query_start,
                        p.phase, p.blocks_done, p.tuples_done) AS sign
       FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p USING (pid)
       WHERE a.pid = $1`,
      [backendPid],
    );
    await client.query('COMMIT');
    failed = false;
    const [row] = rows;
    if (row === undefined) return undefined;
    return {
      sign: row.sign,
      waitsFor: row.wait ?? undefined,
      isWorking: row.state === 'active' && row.wait === null,
      index: indexProgress(row),
    };
  } finally {
    client.release(failed);
  }
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

/** The phases of a B-tree (PostgreSQL's manual, "CREATE INDEX Progress Reporting"); others have nothing to tell. */
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

/** True when it waits for the next message of its client, i.e. of the loader. */
function waitsForUs({ waitsFor }: BackendActivity): boolean {
  return waitsFor === 'Client/ClientRead';
}
