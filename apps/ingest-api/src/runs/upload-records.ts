import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { IngestError } from '../errors.ts';
import type { UploadRecord, UploadRecords } from '../store/durable-store.ts';

/** The tus server's records, in PostgreSQL. */
export function uploadRecords(db: Kysely<Database>): UploadRecords {
  return {
    find: (uploadId) => findUpload(db, uploadId),
    async claim(uploadId, writer, atBytes, insteadOf) {
      const { rows } = await sql<{ other: string | null }>`
        WITH standing AS (
          SELECT writer FROM ingest.upload
          WHERE upload_id = ${uploadId} AND offset_bytes = ${atBytes} AND removed_at IS NULL FOR UPDATE),
        claimed AS (
          UPDATE ingest.upload u SET writer = ${writer} FROM standing s
          WHERE u.upload_id = ${uploadId} AND (s.writer IS NULL OR s.writer IN (${writer}, ${insteadOf ?? writer}))
          RETURNING u.upload_id)
        SELECT CASE WHEN EXISTS (SELECT FROM claimed) THEN NULL ELSE writer END AS other
        FROM standing`.execute(db);
      const [row] = rows;
      if (row === undefined) throw movedOn(uploadId, atBytes);
      return row.other ?? undefined;
    },
    async advance(uploadId, writer, fromBytes, toBytes) {
      const isComplete = sql<boolean>`bytes = ${toBytes}`;
      const row = await db
        .updateTable('ingest.upload')
        .set({
          offset_bytes: toBytes,
          last_progress_at: sql<Date>`now()`,
          // One commit for the last byte, not three: each waits for the disk.
          received_at: sql<Date | null>`CASE WHEN ${isComplete} THEN now() END`,
          writer: sql<string | null>`CASE WHEN ${isComplete} THEN NULL ELSE writer END`,
        })
        .where('upload_id', '=', uploadId)
        .where('offset_bytes', '=', fromBytes)
        .where('writer', '=', writer)
        .where('removed_at', 'is', null)
        .returning(isComplete.as('isComplete'))
        .executeTakeFirst();
      if (row === undefined) throw movedOn(uploadId, fromBytes);
      return row.isComplete;
    },
    async release(uploadId, writer) {
      await db
        .updateTable('ingest.upload')
        .set({ writer: null })
        .where('upload_id', '=', uploadId)
        .where('writer', '=', writer)
        .execute();
    },
  };
}

function movedOn(uploadId: string, offsetBytes: number): IngestError {
  return new IngestError(
    'offset_conflict',
    `Upload ${uploadId} does not stand at ${offsetBytes} any more; ask for its offset and go on from there.`,
  );
}

export interface StandingUpload extends UploadRecord {
  readonly model: ModelName;
  /** A process has begun to write it, and not ended. */
  readonly isBeingWritten: boolean;
}

/** Undefined for one that never was or is gone. */
export async function findUpload(
  db: Kysely<Database>,
  uploadId: string,
): Promise<StandingUpload | undefined> {
  const row = await db
    .selectFrom('ingest.upload')
    .select(['model', 'bytes', 'offset_bytes', 'metadata', 'created_at', 'writer'])
    .where('upload_id', '=', uploadId)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  return {
    uploadId,
    model: row.model,
    sizeBytes: row.bytes,
    offsetBytes: row.offset_bytes,
    metadata: row.metadata,
    createdAt: row.created_at,
    isBeingWritten: row.writer !== null,
  };
}
