import type { Database } from 'db-schema';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { ModelName } from 'wire';
import { IngestError } from '../errors.ts';
import type { UploadRecord, UploadRecords } from '../store/claims.ts';
import { seemsShort, storedBytes, toDiskFault } from '../store/folder.ts';
import { SENT_BY_UPLOAD } from './files.ts';
import { type Query, queryOf, transition } from './transitions.ts';

/** The records of uploads that `store/` keeps in PostgreSQL. */
export function uploadRecords(db: Kysely<Database>): UploadRecords {
  return {
    async claim(uploadId, writer, insteadOf) {
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
    },
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
          // One statement instead of three: each commit waits for the disk.
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
        `Another request took upload ${uploadId} over, or the disk lost its bytes. Ask for the offset with HEAD and continue from there.`,
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

/** Replaces a writer that may still be writing, until the next one has a new file. Never the name of a process. */
const NOBODY = 'nobody';

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

/** An upload with what a request must know about it. */
export interface FoundUpload extends UploadRecord {
  readonly model: ModelName;
  /** A run waits for it. */
  readonly isAwaited: boolean;
  /** The time of the last bytes, or since when a run waits for the upload, if that is later. */
  readonly lastProgressAt: Date;
  /** `Upload-Metadata` as its creator sent it; null for an upload that a manifest declared. */
  readonly metadata: string | null;
  /** A process has claimed it, and not released it. */
  readonly isBeingWritten: boolean;
}

/** Undefined for an upload that does not exist or was removed. */
export async function findUpload(db: Kysely<Database>, uploadId: string): Promise<FoundUpload | undefined> {
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

/** An upload whose file may not hold the acknowledged bytes. */
export interface Suspect {
  readonly uploadId: string;
  /**
   * The `received_at` (as PostgreSQL's text) of content that was read and is not what was declared. Content that was
   * received again since is left alone. Without it, the size of the file is checked.
   */
  readonly wrongSince?: string;
}

/** An upload whose offset was set back to what its file holds; to 0 when the content is wrong. */
export interface LostBytes {
  readonly uploadId: string;
  readonly recordedBytes: number;
  readonly storedBytes: number;
}

interface SetBack {
  readonly lost: readonly LostBytes[];
  /** The runs that wait for bytes again. */
  readonly revisionIds: readonly number[];
}

/**
 * Sets uploads back to what their files hold, and the waiting runs with them to `receiving`, so that the same push sends
 * the rest at once. Removes an upload that no run waits for, so that no later run shares its missing content. The start
 * of the service, requests and loads all use this function, inside a transaction.
 *
 * Skips a run that a loader holds: the loader has the file open, or calls this function itself.
 *
 * @param actor who found the loss, for the history of the run.
 */
export async function setBackUploads(
  query: Query,
  dataDir: string,
  suspects: readonly Suspect[],
  actor: 'service' | 'loader',
): Promise<SetBack> {
  const uploads = await query<LockedUpload>(LOCK_UPLOADS, [suspects.map(({ uploadId }) => uploadId)]);
  const wrong = new Map(suspects.map(({ uploadId, wrongSince }) => [uploadId, wrongSince]));
  const lost: LostBytes[] = [];
  for (const { uploadId, fileName, recordedBytes, receivedAt } of uploads) {
    const wrongSince = wrong.get(uploadId);
    // While the record is locked no writer moves its offset, and a sound file holds at least that many bytes.
    const stored = wrongSince === undefined ? await storedBytes(dataDir, fileName) : 0;
    if (wrongSince === undefined ? stored < recordedBytes : wrongSince === receivedAt)
      lost.push({ uploadId, recordedBytes, storedBytes: stored });
  }
  await query(SET_BACK_UPLOADS, [
    lost.map(({ uploadId }) => uploadId),
    lost.map(({ storedBytes }) => storedBytes),
  ]);
  const waiting = await transition(query, 'await_lost_bytes', SENT_BY_THESE, [
    uploads.map(({ uploadId }) => uploadId),
  ]);
  const revisionIds = waiting.map(({ revisionId }) => revisionId);
  await query(RECORD_LOSS, [revisionIds, actor, JSON.stringify(lost)]);
  return { lost, revisionIds };
}

interface LockedUpload {
  readonly uploadId: string;
  readonly fileName: string;
  readonly recordedBytes: number;
  readonly receivedAt: string | null;
}

/** In a fixed order, so that two transactions with common uploads cannot deadlock. */
const LOCK_UPLOADS = `
  SELECT upload_id AS "uploadId", coalesce(file, upload_id) AS "fileName", offset_bytes AS "recordedBytes",
         received_at::text AS "receivedAt"
  FROM ingest.upload WHERE upload_id = ANY ($1::text[]) AND removed_at IS NULL
  ORDER BY upload_id FOR NO KEY UPDATE`;

/**
 * A current writer has the damaged file open and may write on: its record gets `NOBODY`, so that the next writer
 * continues in another file (`store/claims.ts`). The time until the upload expires starts again.
 */
const SET_BACK_UPLOADS = `
  UPDATE ingest.upload u
  SET offset_bytes = l.stored_bytes, received_at = NULL, last_progress_at = now(),
      writer = CASE WHEN writer IS NOT NULL THEN '${NOBODY}' END,
      removed_at = CASE WHEN NOT EXISTS (
        SELECT FROM ingest.run_revision r
        WHERE ${SENT_BY_UPLOAD} AND r.state IN ('receiving', 'queued')) THEN now() END
  FROM unnest($1::text[], $2::bigint[]) AS l (upload_id, stored_bytes)
  WHERE u.upload_id = l.upload_id`;

/** Also runs of an upload that another transaction has just set back. */
const SENT_BY_THESE = `r.revision_id = ANY (ARRAY(
  SELECT w.revision_id FROM ingest.run_revision w
  WHERE w.state IN ('receiving', 'queued') AND w.revision_id = ANY (ARRAY(
    SELECT f.revision_id FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.upload_id = ANY ($1::text[]) AND u.received_at IS NULL))
  FOR NO KEY UPDATE SKIP LOCKED))`;

/** Writes the loss into the history of each run that waits for bytes again. */
const RECORD_LOSS = `
  INSERT INTO ingest.audit_event (actor, action, model, run_key, revision, detail)
  SELECT $2, 'lose_bytes', r.model, r.run_key, r.revision,
         jsonb_build_object('files', l.files, 'first', jsonb_path_query_array(l.all_files, '$[0 to 9]'))
  FROM ingest.run_revision r JOIN (
    SELECT f.revision_id, count(*) AS files,
           jsonb_agg(jsonb_build_object('file', f.name, 'recordedBytes', l."recordedBytes", 'storedBytes', l."storedBytes")
             ORDER BY f.name) AS all_files
    FROM jsonb_to_recordset($3::jsonb) AS l ("uploadId" text, "recordedBytes" bigint, "storedBytes" bigint)
    JOIN ingest.run_file f ON f.upload_id = l."uploadId" GROUP BY f.revision_id) l USING (revision_id)
  WHERE r.revision_id = ANY ($1::int[])`;

/**
 * The upload with an offset that its file really holds, for a request that needs its bytes: when the file is short, the
 * record is set back first. Undefined when the upload is then removed, because no run waits for it.
 *
 * @throws a `storage_fault` when the disk fails.
 */
export async function withTrueOffset(
  db: Kysely<Database>,
  dataDir: string,
  upload: FoundUpload,
  onLost: (lost: readonly LostBytes[]) => void,
): Promise<FoundUpload | undefined> {
  const { uploadId, fileName, offsetBytes } = upload;
  try {
    if (!(await seemsShort(dataDir, fileName, offsetBytes))) return upload;
    onLost(await setBackShort(db, dataDir, [uploadId]));
  } catch (error) {
    throw toDiskFault(error, uploadId);
  }
  return findUpload(db, uploadId);
}

const COMPARED_AT_ONCE = 32;

/**
 * Compares all uploads with their files when the service starts: after an older copy of the folder was restored, files are
 * short or missing. Requests may arrive meanwhile, and another service may use the same folder: bytes are synced before
 * they are recorded, so a file is never shorter than its record says unless it lost bytes.
 */
export async function setBackAllShort(db: Kysely<Database>, dataDir: string): Promise<readonly LostBytes[]> {
  const uploads = await db
    .selectFrom('ingest.upload')
    .select(['upload_id', 'file', 'offset_bytes'])
    .where('removed_at', 'is', null)
    .where('offset_bytes', '>', 0)
    .execute();
  const lost: LostBytes[] = [];
  for (let start = 0; start < uploads.length; start += COMPARED_AT_ONCE) {
    const some = uploads.slice(start, start + COMPARED_AT_ONCE);
    const short = await Promise.all(
      some.map(({ upload_id, file, offset_bytes }) => seemsShort(dataDir, file ?? upload_id, offset_bytes)),
    );
    const ids = some.filter((_, i) => short[i]).map(({ upload_id }) => upload_id);
    lost.push(...(await setBackShort(db, dataDir, ids)));
  }
  return lost;
}

/** `setBackUploads` for uploads that may be short, in a transaction of its own. */
async function setBackShort(
  db: Kysely<Database>,
  dataDir: string,
  uploadIds: readonly string[],
): Promise<readonly LostBytes[]> {
  if (uploadIds.length === 0) return [];
  const suspects = uploadIds.map((uploadId) => ({ uploadId }));
  const { lost } = await db
    .transaction()
    .execute((trx) => setBackUploads(queryOf(trx), dataDir, suspects, 'service'));
  return lost;
}
