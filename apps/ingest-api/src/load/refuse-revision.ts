import type { Database, LoadPhase, RevisionError } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { describeError, sqlStateOf } from '../errors.ts';

/** Data exception, integrity constraint violation, program limit exceeded: PostgreSQL's word on the rows themselves. */
const REFUSALS = [/^22/, /^23/, /^54/];

/**
 * True when PostgreSQL refused the rows, so that the same bytes would be refused again. Whatever else it says (no
 * memory, no disk, no right, a lock, a connection, a table that is damaged) may be fixed while the run waits.
 */
export function isRefusalOfRows(error: unknown, phase: LoadPhase): boolean {
  const state = sqlStateOf(error);
  if (state === undefined || (phase !== 'copying' && phase !== 'building_key')) return false;
  return REFUSALS.some((pattern) => pattern.test(state));
}

/** True when the attempt before met the same: only then is it proven that the bytes are to blame, and no crash near by. */
export async function wasRefusedBefore(
  side: Kysely<Database>,
  revisionId: number,
  attempt: number,
  cause: unknown,
): Promise<boolean> {
  const before = await side
    .selectFrom('ingest.load_attempt')
    .select('error')
    .where('revision_id', '=', revisionId)
    .where('attempt', '=', attempt - 1)
    .executeTakeFirst();
  return before?.error === describeError(cause);
}

/**
 * Records that PostgreSQL refused rows which the scanner had let through: by a constraint that somebody has added, or by
 * a limit that the scanner should know of. To be called when the load's own transaction is over, which held the row.
 *
 * @throws when another loader has taken the revision up meanwhile; it will meet the same.
 */
export async function refuseRevision(
  side: Kysely<Database>,
  revisionId: number,
  attemptId: number,
  cause: unknown,
): Promise<void> {
  const error: RevisionError = {
    code: 'refused_by_database',
    detail: `PostgreSQL refuses a row of this run: ${describeError(cause)}. The same bytes would be refused again; have it looked at by whoever runs the service.`,
  };
  await side.transaction().execute(async (trx) => {
    await sql`SET LOCAL lock_timeout = '10s'`.execute(trx);
    const { numUpdatedRows } = await trx
      .updateTable('ingest.load_attempt')
      .set({ outcome: 'failed', finished_at: sql<Date>`now()`, error: describeError(cause) })
      .where('attempt_id', '=', attemptId)
      .where('finished_at', 'is', null)
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return; // another loader has taken the run over: it will meet the same
    await trx
      .updateTable('ingest.run_revision')
      .set({ state: 'failed', loaded_at: sql<Date>`now()`, error: JSON.stringify(error) })
      .where('revision_id', '=', revisionId)
      .where('state', '=', 'queued')
      .execute();
  });
}
