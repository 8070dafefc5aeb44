import type { ClientBase } from 'pg';
import { queryOf, setBackUploads } from '../runs/lost-bytes.ts';
import type { ClaimedRevision } from './claim-next-load.ts';
import type { BytesLost, DataFault } from './data-fault.ts';
import { recordRejects } from './record-rejects.ts';

/**
 * Records, in the load's own transaction, that the data is at fault: the partition is dropped, the reason stays. Uploads
 * whose content is wrong are to be sent again, whichever run needs them. While the claim holds, nobody else can take the revision up in between.
 */
export async function failRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  partition: string,
  fault: DataFault,
  dataDir: string,
): Promise<void> {
  await client.query(`DROP TABLE ${partition}`);
  await client.query(
    `UPDATE ingest.run_revision SET state = 'failed', loaded_at = clock_timestamp(), error = $2, rejects = $3 WHERE revision_id = $1`,
    [claimed.revisionId, JSON.stringify(fault.error), JSON.stringify(fault.rejects)],
  );
  await recordRejects(client, claimed.revisionId, fault.rejectedLines);
  await setBackUploads(queryOf(client), dataDir, fault.suspects, 'loader');
}

/**
 * Records, in the load's own transaction, that the revision waits for bytes again.
 *
 * @throws the fault itself when there is nothing to wait for: the bytes were there when they were looked for again.
 */
export async function awaitLostBytes(
  client: ClientBase,
  { revisionId }: ClaimedRevision,
  partition: string,
  fault: BytesLost,
  dataDir: string,
): Promise<void> {
  await client.query(`DROP TABLE ${partition}`);
  const { revisionIds } = await setBackUploads(queryOf(client), dataDir, fault.suspects, 'loader');
  if (!revisionIds.includes(revisionId)) throw fault;
}
