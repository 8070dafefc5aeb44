import type { Database, KeyBuild, LoadPhase } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ClientBase } from 'pg';
import type { ModelName } from 'wire';
import { retryDelayMs } from './loader.ts';

/** A revision whose row this transaction holds, with what must be loaded. */
export interface ClaimedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  readonly asOf: Date;
  readonly declaredBy: string;
  /** Of the claim: while it is in progress this load is alive. */
  readonly transactionId: string;
  readonly files: readonly ClaimedFile[];
}

export interface ClaimedFile {
  readonly name: string;
  readonly uploadId: string;
  /** In the folder of the uploads. */
  readonly fileName: string;
  /** As the database writes it, to the microsecond; null when bytes of it were lost since the run was queued. */
  readonly receivedAt: string | null;
  /** Nobody can send it again: the run has to be declared anew. */
  readonly isRemoved: boolean;
  readonly bytes: number;
  /** Lower-case hex; null for a plain tus upload, which declares none. */
  readonly sha256: string | null;
  readonly lines: number | null;
}

/**
 * Takes a queued revision that nobody holds and whose next try is due. The claim lasts as long as the client's open
 * transaction, and ends with it: that is the lease.
 *
 * Models and tokens take turns: the run is next whose model and whose token were both served longest ago, so that
 * 300 runs of one model delay another model's run by no more than the loads that are already running. Of one model
 * and token the oldest is next.
 */
export async function claimNextLoad(client: ClientBase): Promise<ClaimedRevision | undefined> {
  const { rows } = await client.query<Omit<ClaimedRevision, 'files'>>(`
    WITH served AS MATERIALIZED (
      SELECT s.model, s.declared_by, a.attempt_id
      FROM (SELECT * FROM ingest.load_attempt ORDER BY attempt_id DESC LIMIT ${REMEMBERED_LOADS}) a
      JOIN ingest.run_revision s USING (revision_id)),
    by_model AS MATERIALIZED (SELECT model, max(attempt_id) AS last FROM served GROUP BY model),
    by_token AS MATERIALIZED (SELECT declared_by, max(attempt_id) AS last FROM served GROUP BY declared_by)
    SELECT r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision,
           r.as_of AS "asOf", r.declared_by AS "declaredBy", pg_current_xact_id()::text AS "transactionId"
    FROM ingest.run_revision r
    LEFT JOIN by_model m ON m.model = r.model
    LEFT JOIN by_token t ON t.declared_by = r.declared_by
    WHERE r.state = 'queued'
      AND NOT EXISTS (
        SELECT FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id AND a.next_try_at > now())
    ORDER BY greatest(coalesce(m.last, 0), coalesce(t.last, 0)), coalesce(m.last, 0), r.queued_at, r.revision_id
    LIMIT 1
    FOR NO KEY UPDATE OF r SKIP LOCKED`);
  const [claimed] = rows;
  if (claimed === undefined) return undefined;
  const files = await client.query<ClaimedFile>(
    `SELECT f.name, f.upload_id AS "uploadId", coalesce(u.file, u.upload_id) AS "fileName",
            u.received_at::text AS "receivedAt", u.removed_at IS NOT NULL AS "isRemoved",
            f.bytes, encode(f.sha256, 'hex') AS sha256, f.lines
     FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
     WHERE f.revision_id = $1 ORDER BY f.name`,
    [claimed.revisionId],
  );
  return { ...claimed, files: files.rows };
}

/** Turns are remembered this far back; more models and tokens than this at once begin anew. */
const REMEMBERED_LOADS = 1_000;

/** What is told of a running load, twice a second at most. */
export interface LoadProgress {
  phase: LoadPhase;
  bytesDone: number;
  rowsDone: number;
  readonly phaseSeconds: Readonly<Partial<Record<LoadPhase, number>>>;
}

interface StartedAttempt {
  readonly attemptId: number;
  /** 1 for the first. */
  readonly attempt: number;
}

/**
 * Notes that a load begins. An earlier attempt that never ended was lost with its loader: whoever holds the
 * claim now knows that nobody else works on the revision. After one loss it begins again at once; when the
 * loaders of a revision vanish one after the other it is likely to be what kills them (for want of memory, say),
 * and has to wait, so that others are loaded in between.
 *
 * Attempts are written outside the load's transaction (`side`), so that they can be seen while it runs and
 * survive its rollback; the claimed row itself is never touched from here.
 *
 * @returns `must wait` when the next try is due later; no attempt has begun then.
 */
export async function startAttempt(
  side: Kysely<Database>,
  { revisionId, transactionId }: ClaimedRevision,
  worker: string,
): Promise<StartedAttempt | 'must wait'> {
  return side.transaction().execute(async (trx) => {
    if ((await noteLostAttempt(trx, revisionId)) === 'must wait') return 'must wait';
    const row = await trx
      .insertInto('ingest.load_attempt')
      .columns(['revision_id', 'worker', 'transaction_id', 'attempt'])
      .expression((eb) =>
        eb
          .selectFrom('ingest.load_attempt')
          .select([
            sql.val(revisionId).$castTo<number>().as('revision_id'),
            sql.val(worker).$castTo<string>().as('worker'),
            sql<string>`${transactionId}::xid8`.as('transaction_id'),
            sql<number>`coalesce(max(attempt), 0) + 1`.as('attempt'),
          ])
          .where('revision_id', '=', revisionId),
      )
      .returning(['attempt_id', 'attempt'])
      .executeTakeFirstOrThrow();
    return { attemptId: row.attempt_id, attempt: row.attempt };
  });
}

export async function reportProgress(
  side: Kysely<Database>,
  attemptId: number,
  progress: LoadProgress,
  keyBuild: KeyBuild | undefined,
): Promise<void> {
  await side
    .updateTable('ingest.load_attempt')
    .set({
      key_build: keyBuild === undefined ? null : JSON.stringify(keyBuild),
      phase: progress.phase,
      bytes_done: progress.bytesDone,
      rows_done: progress.rowsDone,
      updated_at: sql<Date>`now()`,
    })
    .where('attempt_id', '=', attemptId)
    .where('finished_at', 'is', null)
    .execute();
}

/**
 * The attempt met a fault of the machinery; its revision is tried again after `delayMs`.
 *
 * @returns false when it had been ended before, by another loader: that is the newer truth, and stays.
 */
export async function endAttemptForRetry(
  side: Kysely<Database>,
  attemptId: number,
  error: string,
  delayMs: number,
): Promise<boolean> {
  const { numUpdatedRows } = await side
    .updateTable('ingest.load_attempt')
    .set({
      outcome: 'retry',
      error,
      finished_at: sql<Date>`now()`,
      next_try_at: sql<Date>`now() + ${delayMs} * interval '1 millisecond'`,
    })
    .where('attempt_id', '=', attemptId)
    .where('finished_at', 'is', null)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/**
 * Ends the attempt that a vanished loader has left open, if there is one. After the first loss the revision may be
 * loaded again at once; after more of them in a row its next try is due later, as it may be what ends its loaders.
 *
 * @param attemptId the attempt that was ended from outside; left out by whoever has the claim.
 */
export async function noteLostAttempt(
  trx: Transaction<Database>,
  revisionId: number,
  attemptId?: number,
): Promise<'must wait' | 'go on'> {
  const { numUpdatedRows } = await trx
    .updateTable('ingest.load_attempt')
    .set({ outcome: 'lost', finished_at: sql<Date>`now()` })
    .where('revision_id', '=', revisionId)
    .where('finished_at', 'is', null)
    .$if(attemptId !== undefined, (query) => query.where('attempt_id', '=', attemptId ?? 0))
    .executeTakeFirst();
  if (numUpdatedRows === 0n) return 'go on';
  const { rows } = await sql<{ lost: number; attempt: number }>`
    SELECT count(*) AS lost, max(attempt) AS attempt FROM ingest.load_attempt
    WHERE revision_id = ${revisionId} AND attempt > (
      SELECT coalesce(max(attempt), 0) FROM ingest.load_attempt
      WHERE revision_id = ${revisionId} AND outcome <> 'lost')`.execute(trx);
  const { lost, attempt } = rows[0] ?? { lost: 1, attempt: 1 };
  const delayMs = lost === 1 ? 0 : retryDelayMs(lost - 1);
  await trx
    .updateTable('ingest.load_attempt')
    .set({
      error: sql<string>`coalesce(error, ${vanished(lost)})`, // whoever ended it from outside has said why

      next_try_at: sql<Date>`now() + ${delayMs} * interval '1 millisecond'`,
    })
    .where('revision_id', '=', revisionId)
    .where('attempt', '=', attempt)
    .execute();
  return delayMs === 0 ? 'go on' : 'must wait';
}

function vanished(times: number): string {
  const what = 'The loader that worked on it vanished (killed, or cut off from the database)';
  if (times === 1) return `${what}; its transaction was rolled back.`;
  return `${what}, as ${times} in a row have; its transaction was rolled back. See what ends them: the kernel's log says when memory was short.`;
}
