import type { Database, KeyBuild, LoadOutcome, LoadPhase } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ClientBase } from 'pg';
import type { ModelName } from 'wire';
import { STORED_UPLOAD } from '../runs/uploads.ts';
import type { StoredUpload } from '../store/store.ts';

/** A revision whose row this transaction holds, with what must be loaded. */
export interface ClaimedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  readonly asOf: Date;
  readonly declaredBy: string;
  /** Of the claim: while it is in progress, this load is alive. */
  readonly transactionId: string;
  readonly files: readonly ClaimedFile[];
}

export interface ClaimedFile extends StoredUpload {
  readonly name: string;
  /**
   * As the database writes it, to the microsecond; null when bytes of it were lost after the run was queued.
   */
  readonly receivedAt: string | null;
  /** Nobody can send it again: the run must be declared again. */
  readonly isRemoved: boolean;
  readonly bytes: number;
  /** Lower-case hex; null for a plain tus upload, which declares none. */
  readonly sha256: string | null;
  readonly lines: number | null;
}

/**
 * Claims a queued revision that no loader holds and whose next attempt is due. The claim lasts as long as the
 * client's open transaction: that is the lease.
 *
 * Models and tokens take turns: the next run is the one whose model and whose token were both served longest
 * ago, so that 300 runs of one model delay another model's run by no more than the loads that already run. Of
 * one model and token, the oldest run is next.
 */
export async function claimNextLoad(client: ClientBase): Promise<ClaimedRevision | undefined> {
  const { rows } = await client.query<Omit<ClaimedRevision, 'files'>>(`
    WITH served AS MATERIALIZED (
      SELECT s.model, s.declared_by, a.attempt_id
      FROM (SELECT * FROM ingest.load_attempt ORDER BY attempt_id DESC LIMIT ${REMEMBERED_ATTEMPTS}) a
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
    `SELECT f.name, ${STORED_UPLOAD}, u.received_at::text AS "receivedAt", u.removed_at IS NOT NULL AS "isRemoved",
            f.bytes, encode(f.sha256, 'hex') AS sha256, f.lines
     FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
     WHERE f.revision_id = $1 ORDER BY f.name`,
    [claimed.revisionId],
  );
  return { ...claimed, files: files.rows };
}

/**
 * Turns are counted over this many attempts; a model or token whose last one is older counts as never served.
 */
const REMEMBERED_ATTEMPTS = 1_000;

interface StartedAttempt {
  readonly attemptId: number;
  /** 1 for the first. */
  readonly attempt: number;
}

/**
 * Records that a load starts. If an earlier attempt is still open, its loader has vanished: this transaction
 * holds the claim now, so nobody else works on the revision.
 *
 * Attempts are written outside the load's transaction (`side`), so that others see them while it runs and
 * they survive its rollback. Nothing here touches the claimed row.
 *
 * @returns `must wait` when the next attempt is due later; then no attempt has started.
 */
export async function startAttempt(
  side: Kysely<Database>,
  { revisionId, transactionId }: ClaimedRevision,
  worker: string,
): Promise<StartedAttempt | 'must wait'> {
  return side.transaction().execute(async (trx) => {
    if ((await endLostAttempt(trx, revisionId)) === 'must wait') return 'must wait';
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

/** How far a load is, and how long it and each of its phases have lasted. */
export class LoadProgress {
  bytesDone = 0;
  rowsDone = 0;
  readonly #startedMs = performance.now();
  readonly #ended: Partial<Record<LoadPhase, number>> = {};
  #phase: LoadPhase = 'copying';
  #sinceMs = this.#startedMs;

  get phase(): LoadPhase {
    return this.#phase;
  }

  set phase(next: LoadPhase) {
    this.#ended[this.#phase] = this.#secondsSince();
    this.#phase = next;
    this.#sinceMs = performance.now();
  }

  /** Of every phase so far, the present one included. */
  get phaseSeconds(): Readonly<Partial<Record<LoadPhase, number>>> {
    return { ...this.#ended, [this.#phase]: this.#secondsSince() };
  }

  get seconds(): number {
    return (performance.now() - this.#startedMs) / 1000;
  }

  #secondsSince(): number {
    return Math.round(performance.now() - this.#sinceMs) / 1000;
  }
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
 * Ends the attempt inside the load's transaction, so that its outcome commits together with the load, or not
 * at all.
 */
export async function endAttempt(
  client: ClientBase,
  attemptId: number,
  outcome: LoadOutcome,
  reason: string | null,
  progress: LoadProgress,
): Promise<void> {
  await client.query(
    `UPDATE ingest.load_attempt
     SET outcome = $2, finished_at = clock_timestamp(), updated_at = clock_timestamp(), phase = $3, bytes_done = $4, rows_done = $5,
         phase_seconds = $6, error = $7
     WHERE attempt_id = $1`,
    [
      attemptId,
      outcome,
      progress.phase,
      progress.bytesDone,
      progress.rowsDone,
      JSON.stringify(progress.phaseSeconds),
      reason,
    ],
  );
}

/**
 * Ends an attempt whose load met a fault of the machinery; the next one is due after `delayMs`.
 *
 * @returns false when another loader has ended it already: what that one wrote is newer, and stays.
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

const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 5 * 60_000;

/** Exponential backoff, half of it jitter: 1 s, 2 s, 4 s … 5 min. */
export function retryDelayMs(attempt: number): number {
  const full = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt - 1, 20));
  return Math.round(full / 2 + (Math.random() * full) / 2);
}

/**
 * Ends the attempt that a vanished loader has left open, if there is one. After the first loss the revision
 * may be loaded again at once. When several loaders of a revision vanish in a row, it is probably what kills
 * them (it needs too much memory, say), so its next attempt is due later, and other revisions are loaded in
 * between.
 *
 * @param attemptId the attempt whose connection was ended from outside; left out by the loader that has the
 *   claim.
 */
export async function endLostAttempt(
  trx: Transaction<Database>,
  revisionId: number,
  attemptId?: number,
): Promise<'must wait' | 'may start'> {
  const { numUpdatedRows } = await trx
    .updateTable('ingest.load_attempt')
    .set({ outcome: 'lost', finished_at: sql<Date>`now()` })
    .where('revision_id', '=', revisionId)
    .where('finished_at', 'is', null)
    .$if(attemptId !== undefined, (query) => query.where('attempt_id', '=', attemptId ?? 0))
    .executeTakeFirst();
  if (numUpdatedRows === 0n) return 'may start';
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
      error: sql<string>`coalesce(error, ${lossOf(lost)})`, // whoever ended it from outside has written why
      next_try_at: sql<Date>`now() + ${delayMs} * interval '1 millisecond'`,
    })
    .where('revision_id', '=', revisionId)
    .where('attempt', '=', attempt)
    .execute();
  return delayMs === 0 ? 'may start' : 'must wait';
}

function lossOf(lostInARow: number): string {
  const lost =
    'The loader of this run vanished: it was killed, or lost its connection. PostgreSQL rolled its load back.';
  if (lostInARow === 1) return lost;
  return `${lost} This happened ${lostInARow} times in a row. Find out what ends the loaders: the kernel's log shows processes that were killed for lack of memory.`;
}
