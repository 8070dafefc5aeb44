import type { Database, ModelName } from 'db-schema';
import type { Kysely, Transaction } from 'kysely';
import type { RunLimits } from './contract.ts';
import { lockRunKey, newestRevision, openRevision } from './open-revision.ts';

export interface SingleFile {
  readonly uploadId: string;
  readonly model: ModelName;
  readonly run: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** The header Upload-Metadata as it was sent. */
  readonly metadata: string;
  readonly declaredBy: string;
  readonly limits: RunLimits;
  /** Called at the end of the transaction; rejects when the file does not fit. */
  reserve(trx: Transaction<Database>): Promise<void>;
}

/**
 * A run of one file that a plain tus client creates by POST, with no manifest: each POST is a new revision,
 * as nothing is known of its content before it is loaded.
 */
export async function openSingleFileRun(db: Kysely<Database>, file: SingleFile): Promise<void> {
  const { model, run, declaredBy } = file;
  await db.transaction().execute(async (trx) => {
    await lockRunKey(trx, model, run);
    const newest = await newestRevision(trx, model, run);
    const { revisionId } = await openRevision(trx, newest, {
      model,
      run,
      digest: null,
      totals: { files: 1, bytes: file.sizeBytes, lines: null },
      declaredBy,
      limits: file.limits,
      auditDetail: { files: 1, plainTus: true },
    });
    await trx
      .insertInto('ingest.upload')
      .values({
        upload_id: file.uploadId,
        model,
        bytes: file.sizeBytes,
        sha256: null,
        metadata: file.metadata,
        created_by: declaredBy,
        received_at: file.sizeBytes === 0 ? new Date() : null, // an empty file has nothing to send
      })
      .execute();
    await trx
      .insertInto('ingest.run_file')
      .values({
        revision_id: revisionId,
        name: file.name,
        bytes: file.sizeBytes,
        sha256: null,
        lines: null,
        upload_id: file.uploadId,
      })
      .execute();
    await file.reserve(trx);
  });
}
