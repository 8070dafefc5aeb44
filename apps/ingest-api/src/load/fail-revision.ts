import type { ClientBase } from 'pg';
import type { ClaimedRevision } from './claim-next-load.ts';
import type { DataFault } from './data-fault.ts';
import { recordRejects } from './record-rejects.ts';

/**
 * Records, in the load's own transaction, that the data is at fault: the partition goes, the reason stays.
 * While the claim holds, nobody else can take the revision up in between.
 */
export async function failRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  partition: string,
  fault: DataFault,
): Promise<void> {
  await client.query(`DROP TABLE ${partition}`);
  await client.query(
    `UPDATE ingest.run_revision SET state = 'failed', loaded_at = clock_timestamp(), error = $2, rejects = $3 WHERE revision_id = $1`,
    [claimed.revisionId, JSON.stringify(fault.error), JSON.stringify(fault.rejects)],
  );
  await recordRejects(client, claimed.revisionId, fault.rejectedLines);
  if (fault.error.code === 'content_mismatch') await forgetUpload(client, claimed, fault.error.file);
}

/** What arrived is not what was declared: the next push sends this file anew. */
async function forgetUpload(
  client: ClientBase,
  claimed: ClaimedRevision,
  file: string | undefined,
): Promise<void> {
  await client.query(
    `UPDATE ingest.upload SET removed_at = clock_timestamp()
     WHERE upload_id IN (SELECT upload_id FROM ingest.run_file WHERE revision_id = $1 AND name = $2)`,
    [claimed.revisionId, file],
  );
}
