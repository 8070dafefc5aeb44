import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import { recordAudit } from './audit.ts';
import { type FoundRevision, lockRevision, type RevisionKey } from './find-revision.ts';
import { wakeLoaders } from './queue-complete-revisions.ts';

export interface RetryRequest extends RevisionKey {
  readonly actor: string;
  readonly reason?: string | undefined;
}

/**
 * Loads a failed revision again from the files that are still there (its contract may have changed), or lets a
 * queued one that waits for its next try have it now.
 */
export async function retryRun(db: Kysely<Database>, request: RetryRequest): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    if (target.state === 'failed') await queueAgain(trx, target, request);
    else if (target.state !== 'queued') {
      throw new IngestError(
        'conflict',
        `Run "${request.run}" is ${target.state}; only a failed or a queued run can be tried again.`,
      );
    }
    await trx
      .updateTable('ingest.load_attempt')
      .set({ next_try_at: null })
      .where('revision_id', '=', target.revision_id)
      .execute();
    const { actor, model, run, reason } = request;
    const detail = reason === undefined ? {} : { detail: { reason } };
    await recordAudit(trx, { actor, action: 'retry', model, run, revision: target.revision, ...detail });
  });
  await wakeLoaders(db);
}

async function queueAgain(
  trx: Transaction<Database>,
  target: FoundRevision,
  { run }: RetryRequest,
): Promise<void> {
  const { rows } = await sql<{ removed_at: Date | null }>`
    SELECT u.removed_at FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.revision_id = ${target.revision_id} FOR SHARE OF u`.execute(trx);
  if (rows.some((upload) => upload.removed_at !== null)) {
    throw new IngestError('conflict', `Files of run "${run}" are gone from the service; push the run again.`);
  }
  await trx.deleteFrom('ingest.rejected_line').where('revision_id', '=', target.revision_id).execute();
  await sql`
    UPDATE ingest.run_revision
    SET state = 'queued', queued_at = now(), loaded_at = NULL, error = NULL, rejects = NULL
    WHERE revision_id = ${target.revision_id}`.execute(trx);
}
