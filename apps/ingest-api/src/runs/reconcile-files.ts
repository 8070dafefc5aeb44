import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { storedBytes } from '../store/upload-files.ts';
import { recordAudit } from './audit.ts';

/** A file that holds fewer bytes than the database believes. */
export interface LostBytes {
  readonly uploadId: string;
  readonly recordedBytes: number;
  readonly storedBytes: number;
}

const LOOKED_AT_ONCE = 32;

/**
 * Holds the records of uploads against the folder, which alone knows what is there: after an older copy of it was
 * restored, or none, files are short or missing. Their uploads go back to what is there, and runs that were
 * complete by them wait for bytes again, so that the same push sends what is gone. What no run waits for is given up.
 *
 * For the start of a service. Requests that come meanwhile, and another service on the same folder, do no harm: bytes are synced before they
 * are recorded. A run that a loader holds just now is left to it.
 */
export async function reconcileFiles(db: Kysely<Database>, dataDir: string): Promise<readonly LostBytes[]> {
  const uploads = await db
    .selectFrom('ingest.upload')
    .select(['upload_id', 'offset_bytes'])
    .where('removed_at', 'is', null)
    .where('offset_bytes', '>', 0)
    .execute();
  const lost: LostBytes[] = [];
  for (let start = 0; start < uploads.length; start += LOOKED_AT_ONCE) {
    const looked = uploads.slice(start, start + LOOKED_AT_ONCE).map(async (upload) => ({
      uploadId: upload.upload_id,
      recordedBytes: upload.offset_bytes,
      storedBytes: await storedBytes(dataDir, upload.upload_id),
    }));
    for (const found of await Promise.all(looked))
      if (found.storedBytes < found.recordedBytes && (await setBack(db, found))) lost.push(found);
  }
  return lost;
}

/** @returns false when a loader holds a run of it, or it has moved on meanwhile. */
async function setBack(db: Kysely<Database>, lost: LostBytes): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const waiting = await lockWaitingRuns(trx, lost.uploadId);
    if (waiting === undefined) return false;
    const isNeeded = waiting.length > 0;
    const { numUpdatedRows } = await trx
      .updateTable('ingest.upload')
      .set(
        isNeeded
          ? {
              offset_bytes: lost.storedBytes,
              received_at: null,
              writer: null,
              last_progress_at: sql<Date>`now()`, // it is given its time anew
            }
          : { removed_at: sql<Date>`now()` },
      )
      .where('upload_id', '=', lost.uploadId)
      .where('offset_bytes', '>', lost.storedBytes)
      .where('removed_at', 'is', null)
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return false;
    for (const run of waiting) await waitForBytesAgain(trx, run, lost);
    return true;
  });
}

interface WaitingRun {
  readonly revision_id: number;
  readonly model: ModelName;
  readonly run_key: string;
  readonly revision: number;
}

/** The runs that need the upload's bytes, locked; undefined when somebody else has locked one of them. */
async function lockWaitingRuns(
  trx: Transaction<Database>,
  uploadId: string,
): Promise<readonly WaitingRun[] | undefined> {
  const waiting = sql`
    SELECT r.revision_id, r.model, r.run_key, r.revision
    FROM ingest.run_revision r JOIN ingest.run_file f USING (revision_id)
    WHERE f.upload_id = ${uploadId} AND r.state IN ('receiving', 'queued')`;
  const { rows: all } = await sql<WaitingRun>`${waiting}`.execute(trx);
  const { rows: locked } = await sql<WaitingRun>`${waiting} FOR NO KEY UPDATE OF r SKIP LOCKED`.execute(trx);
  return locked.length === all.length ? locked : undefined;
}

async function waitForBytesAgain(
  trx: Transaction<Database>,
  { revision_id, model, run_key, revision }: WaitingRun,
  { uploadId, recordedBytes, storedBytes }: LostBytes,
): Promise<void> {
  await sql`
    UPDATE ingest.run_revision SET state = 'receiving', queued_at = NULL
    WHERE revision_id = ${revision_id}`.execute(trx);
  const detail = { uploadId, recordedBytes, storedBytes };
  await recordAudit(trx, { actor: 'service', action: 'lose_bytes', model, run: run_key, revision, detail });
}
