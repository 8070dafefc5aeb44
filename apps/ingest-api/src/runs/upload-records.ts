import type { Database, ModelName } from 'db-schema';
import { type Kysely, type Selectable, sql } from 'kysely';
import { IngestError } from '../errors.ts';
import type { ClaimAnswer, UploadRecord, UploadRecords } from '../store/upload-record.ts';
import { SENT_BY_UPLOAD } from './run-files.ts';

/** The tus server's records, in PostgreSQL. */
export function uploadRecords(db: Kysely<Database>): UploadRecords {
  return {
    claim: (uploadId, writer, insteadOf) => claimUpload(db, uploadId, writer, insteadOf),
    async fence(uploadId, writer) {
      const fenced = await db
        .updateTable('ingest.upload')
        .set({ writer: NOBODY })
        .where('upload_id', '=', uploadId)
        .where('writer', '=', writer)
        .where('removed_at', 'is', null)
        .returning(RECORD)
        .executeTakeFirst();
      return fenced && toRecord(uploadId, fenced);
    },
    async claimFenced({ uploadId, fileName, offsetBytes }, writer, newFileName) {
      const { numUpdatedRows } = await db
        .updateTable('ingest.upload')
        .set({ writer, file: newFileName })
        .where('upload_id', '=', uploadId)
        .where('writer', '=', NOBODY)
        .where(sql<string>`coalesce(file, upload_id)`, '=', fileName)
        .where('offset_bytes', '=', offsetBytes)
        .where('removed_at', 'is', null)
        .executeTakeFirst();
      return numUpdatedRows === 1n;
    },
    async advance(uploadId, writer, fromBytes, toBytes) {
      const isReceived = sql<boolean>`bytes = ${toBytes}`;
      const row = await db
        .updateTable('ingest.upload')
        .set({
          offset_bytes: toBytes,
          last_progress_at: sql<Date>`now()`,
          // One commit for the last byte, not three: each waits for the disk.
          received_at: sql<Date | null>`CASE WHEN ${isReceived} THEN now() END`,
          writer: sql<string | null>`CASE WHEN ${isReceived} THEN NULL ELSE writer END`,
        })
        .where('upload_id', '=', uploadId)
        .where('offset_bytes', '=', fromBytes)
        .where('writer', '=', writer)
        .where('removed_at', 'is', null)
        .returning(isReceived.as('isReceived'))
        .executeTakeFirst();
      if (row !== undefined) return row.isReceived;
      throw new IngestError(
        'upload_locked',
        `Another request has taken upload ${uploadId} over, or its bytes were lost; ask for its offset and continue from there.`,
      );
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

/** In place of a writer that may write on, until another one has a file of its own: never the name of a process. */
export const NOBODY = 'nobody';

async function claimUpload(
  db: Kysely<Database>,
  uploadId: string,
  writer: string,
  insteadOf: string | undefined,
): Promise<ClaimAnswer> {
  const claimed = await db
    .updateTable('ingest.upload')
    .set({ writer })
    .where('upload_id', '=', uploadId)
    .where('removed_at', 'is', null)
    .where(({ eb, or }) => or([eb('writer', 'is', null), eb('writer', '=', insteadOf ?? writer)]))
    .returning(RECORD)
    .executeTakeFirst();
  if (claimed !== undefined) return { record: toRecord(uploadId, claimed) };
  return db
    .selectFrom('ingest.upload')
    .select('writer')
    .where('upload_id', '=', uploadId)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
}

export interface StandingUpload extends UploadRecord {
  readonly model: ModelName;
  /** A run waits for it. */
  readonly isAwaited: boolean;
  /** Or since when a run waits for it, when that is later. */
  readonly lastProgressAt: Date;
  /** The header as its creator sent it; null for one that a manifest has declared. */
  readonly metadata: string | null;
  /** A process has begun to write it, and not ended. */
  readonly isBeingWritten: boolean;
}

/** Undefined for one that never was or is gone. */
export async function findUpload(
  db: Kysely<Database>,
  uploadId: string,
): Promise<StandingUpload | undefined> {
  const row = await db
    .selectFrom('ingest.upload as u')
    .select(['model', 'writer', 'metadata', 'last_progress_at', ...RECORD])
    .select(
      sql<Date | null>`(
        SELECT max(r.declared_at) FROM ingest.run_revision r
        WHERE r.state = 'receiving' AND ${sql.raw(SENT_BY_UPLOAD)})`.as('awaited_since'),
    )
    .where('upload_id', '=', uploadId)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const { model, writer, metadata, awaited_since, last_progress_at } = row;
  const isAwaited = awaited_since !== null;
  return {
    ...toRecord(uploadId, row),
    model,
    metadata,
    isBeingWritten: writer !== null,
    isAwaited,
    lastProgressAt: isAwaited && awaited_since > last_progress_at ? awaited_since : last_progress_at,
  };
}

const RECORD = ['bytes', 'offset_bytes', 'created_at', 'file'] as const;

function toRecord(
  uploadId: string,
  row: Pick<Selectable<Database['ingest.upload']>, (typeof RECORD)[number]>,
): UploadRecord {
  return {
    uploadId,
    fileName: row.file ?? uploadId,
    sizeBytes: row.bytes,
    offsetBytes: row.offset_bytes,
    createdAt: row.created_at,
  };
}
