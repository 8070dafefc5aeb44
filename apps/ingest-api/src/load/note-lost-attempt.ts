import type { Database } from 'db-schema';
import { sql, type Transaction } from 'kysely';
import { retryDelayMs } from './retry-delay.ts';

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
