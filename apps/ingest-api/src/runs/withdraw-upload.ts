import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { IngestError } from '../errors.ts';
import { removeUploadFile } from '../store/upload-files.ts';
import { recordAudit } from './audit.ts';

/**
 * tus termination: gives up an upload that is not finished, and with it the runs that wait for it. A finished
 * file belongs to its run and stays.
 */
export async function withdrawUpload(
  db: Kysely<Database>,
  dataDir: string,
  uploadId: string,
  actor: string,
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const upload = await trx
      .updateTable('ingest.upload')
      .set({ removed_at: sql<Date>`now()` })
      .where('upload_id', '=', uploadId)
      .where('received_at', 'is', null)
      .where('removed_at', 'is', null)
      .returning(['model', 'offset_bytes'])
      .executeTakeFirst();
    if (upload === undefined) {
      throw new IngestError(
        'conflict',
        'The upload is finished and belongs to its run; withdraw the run instead.',
      );
    }
    await sql`
      UPDATE ingest.run_revision SET state = 'cancelled'
      WHERE state = 'receiving'
        AND revision_id IN (SELECT revision_id FROM ingest.run_file WHERE upload_id = ${uploadId})`.execute(
      trx,
    );
    await recordAudit(trx, {
      actor,
      action: 'remove_upload',
      model: upload.model,
      detail: { uploadId, offsetBytes: upload.offset_bytes },
    });
  });
  await removeUploadFile(dataDir, uploadId);
}
