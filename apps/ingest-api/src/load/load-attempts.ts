import type { Database, KeyBuild, LoadPhase } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { ClaimedRevision } from './claim-next-load.ts';
import { noteLostAttempt } from './note-lost-attempt.ts';

/** What is told of a running load, twice a second at most. */
export interface LoadProgress {
  phase: LoadPhase;
  bytesDone: number;
  rowsDone: number;
  readonly phaseSeconds: Readonly<Partial<Record<LoadPhase, number>>>;
}

export interface StartedAttempt {
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
