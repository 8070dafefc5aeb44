import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import { describeError, sqlStateOf } from '../errors.ts';
import { wakeLoaders } from '../runs/queue-complete-revisions.ts';
import type { LoaderContext } from './loader-context.ts';
import { noteLostAttempt } from './note-lost-attempt.ts';

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
