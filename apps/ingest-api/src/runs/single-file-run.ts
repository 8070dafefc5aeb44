import type { Database, ModelName } from 'db-schema';
import type { Kysely } from 'kysely';
import { recordAudit } from './audit.ts';
import { cancelUnfinished, lockRunKey, newestRevision } from './declare-run.ts';

export interface SingleFile {
  readonly uploadId: string;
  readonly model: ModelName;
  readonly run: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly metadata: Record<string, string | null>;
  readonly declaredBy: string;
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
    await trx
      .insertInto('ingest.model')
      .values({ name: model })
      .onConflict((c) => c.doNothing())
      .execute();
    await cancelUnfinished(trx, model, run);
    const revision = (newest?.revision ?? 0) + 1;
    const { revision_id } = await trx
      .insertInto('ingest.run_revision')
      .values({
        model,
        run_key: run,
        revision,
        as_of: newest?.as_of ?? new Date(),
        manifest_sha256: null,
        source: null,
        declared_by: declaredBy,
      })
      .returning('revision_id')
      .executeTakeFirstOrThrow();
    await trx
      .insertInto('ingest.upload')
      .values({
        upload_id: file.uploadId,
        model,
        bytes: file.sizeBytes,
        sha256: null,
        metadata: JSON.stringify(file.metadata),
        created_by: declaredBy,
        received_at: null,
      })
      .execute();
    await trx
      .insertInto('ingest.run_file')
      .values({
        revision_id,
        name: file.name,
        bytes: file.sizeBytes,
        sha256: null,
        lines: null,
        upload_id: file.uploadId,
      })
      .execute();
    await recordAudit(trx, {
      actor: declaredBy,
      action: 'declare',
      model,
      run,
      revision,
      detail: { files: 1, plainTus: true },
    });
  });
}
