import type { Database } from 'db-schema';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { ModelName } from 'wire';
import { IngestError } from '../errors.ts';
import type { UploadRecords } from '../store/claims.ts';
import type { Store, StoredUpload, UploadOffset, UploadRecord } from '../store/store.ts';
import { SENT_BY_UPLOAD } from './files.ts';
import { type Query, queryOf, transition } from './transitions.ts';

/** The records of uploads that `store/` keeps in PostgreSQL. */
export function uploadRecords(db: Kysely<Database>): UploadRecords {
  const query = queryOf(db);
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
    async advance(uploadId, writer, fromBytes, toBytes, segment) {
      const [moved] =
        segment === undefined
          ? await query<Moved>(MOVE_OFFSET, [uploadId, writer, fromBytes, toBytes])
          : await query<Moved>(ADD_SEGMENT, [
              uploadId,
              writer,
              fromBytes,
              toBytes,
              segment.bytes,
              segment.key,
              segment.crc32,
            ]);
      if (moved !== undefined) return moved.isReceived;
      throw new IngestError(
        'upload_locked',
        `Another request took upload ${uploadId} over, or the store lost its bytes. Ask for the offset with HEAD and continue from there.`,
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

interface Moved {
  readonly isReceived: boolean;
}

/** One statement instead of three: each commit waits for the disk. With the last byte the upload is received. */
const MOVE_OFFSET = `
  UPDATE ingest.upload SET offset_bytes = $4, last_progress_at = now(),
    received_at = CASE WHEN bytes = $4 THEN now() END,
    writer = CASE WHEN bytes = $4 THEN NULL ELSE writer END
  WHERE upload_id = $1 AND offset_bytes = $3 AND writer = $2 AND removed_at IS NULL
  RETURNING bytes = $4 AS "isReceived"`;

/**
 * The same for an object of a bucket, which gets its row, or else is an orphan. The writer's own row must exist: a process
 * that was frozen until its orphans were removed cannot name one of them (`removeOrphans`, `forgetWriters`).
 */
const ADD_SEGMENT = `
  WITH moved AS (${MOVE_OFFSET.replace('RETURNING', 'AND EXISTS (SELECT FROM ingest.writer w WHERE w.writer = $2) RETURNING')}),
  added AS (
    INSERT INTO ingest.upload_segment (upload_id, from_byte, bytes, object_key, crc32)
    SELECT $1, $3, $5::integer, $6, $7::bigint FROM moved)
  SELECT "isReceived" FROM moved`;

/**
 * Makes `fileName`, which holds all its bytes, the file of an upload that nobody writes and that has no bytes yet.
 *
 * @returns false when a request has claimed the upload, or moved its offset, since it was found.
 */
export async function recordWhole(
  db: Kysely<Database>,
  { uploadId, sizeBytes }: UploadRecord,
  fileName: string,
): Promise<boolean> {
  const recorded = await queryOf(db)(RECORD_WHOLE, [uploadId, fileName, sizeBytes]);
  return recorded.length === 1;
}

const RECORD_WHOLE = `
  UPDATE ingest.upload SET file = $2, offset_bytes = bytes, last_progress_at = now(), received_at = now()
  WHERE upload_id = $1 AND bytes = $3 AND offset_bytes = 0 AND writer IS NULL AND removed_at IS NULL
  RETURNING upload_id`;

/** Replaces a writer that may still be writing, until the next one has a new file. Never the name of a process. */
const NOBODY = 'nobody';

/** What a store must know of the upload `u`: columns of a query. */
export const STORED_UPLOAD = `
  u.upload_id AS "uploadId", coalesce(u.file, u.upload_id) AS "fileName",
  (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'fromByte', s.from_byte, 'bytes', s.bytes, 'key', s.object_key, 'crc32', s.crc32) ORDER BY s.from_byte), '[]')
   FROM ingest.upload_segment s WHERE s.upload_id = u.upload_id) AS segments`;

/** What a store must know of these uploads. */
export function storedUploads(query: Query, uploadIds: readonly string[]): Promise<readonly StoredUpload[]> {
  return query(`SELECT ${STORED_UPLOAD} FROM ingest.upload u WHERE u.upload_id = ANY ($1::text[])`, [
    uploadIds,
  ]);
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

/** An upload with what a request must know about it. */
export interface FoundUpload extends UploadRecord {
  readonly model: ModelName;
  /** The revisions that wait for it, in order. */
  readonly awaitedBy: readonly number[];
  /** The time of the last bytes, or since when a run waits for the upload, if that is later. */
  readonly lastProgressAt: Date;
  /** `Upload-Metadata` as its creator sent it; null for an upload that a manifest declared. */
  readonly metadata: string | null;
  /** A process has claimed it, and not released it. */
  readonly isBeingWritten: boolean;
}

/** Undefined for an upload that does not exist or was removed. */
export async function findUpload(db: Kysely<Database>, uploadId: string): Promise<FoundUpload | undefined> {
  const [row] = await queryOf(db)<FoundRow>('SELECT * FROM ingest.find_upload($1)', [uploadId]);
  if (row === undefined) return undefined;
  const { model, writer, metadata, awaited_by, awaited_since, last_progress_at } = row;
  return {
    ...toRecord(uploadId, row),
    model,
    metadata,
    isBeingWritten: writer !== null,
    awaitedBy: awaited_by,
    lastProgressAt:
      awaited_since !== null && awaited_since > last_progress_at ? awaited_since : last_progress_at,
  };
}

type FoundRow = Pick<
  Selectable<Database['ingest.upload']>,
  'model' | 'metadata' | 'writer' | 'last_progress_at' | (typeof RECORD)[number]
> & {
  readonly awaited_by: readonly number[];
  readonly awaited_since: Date | null;
};

/** An upload whose offset was set back to the bytes that are left; to 0 when the content is wrong. */
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
 * Sets uploads back to the bytes that are left, and the waiting runs with them to `receiving`, so that the same push sends
 * the rest at once. Removes an upload that no run waits for, so that no later run shares its missing content. The start
 * of the service, requests and loads all use this function, inside a transaction.
 *
 * Skips a run that a loader holds: the loader has the file open, or calls this function itself.
 *
 * @param suspects the uploads that may have lost bytes.
 * @param actor who found the loss, for the history of the run.
 * @param bytesLeft how many bytes from its beginning are left of an upload; undefined when it has lost none. No writer moves
 *   its offset meanwhile.
 */
export async function setBackUploads(
  query: Query,
  suspects: readonly string[],
  actor: 'service' | 'loader',
  bytesLeft: (upload: LockedUpload) => Promise<number | undefined> | number | undefined,
): Promise<SetBack> {
  const uploads = await query<LockedUpload>(LOCK_UPLOADS, [suspects]);
  const lost: LostBytes[] = [];
  for (const upload of uploads) {
    const { uploadId, recordedBytes } = upload;
    const storedBytes = await bytesLeft(upload);
    if (storedBytes !== undefined) lost.push({ uploadId, recordedBytes, storedBytes });
  }
  await query(SET_BACK_UPLOADS, [
    lost.map(({ uploadId }) => uploadId),
    lost.map(({ storedBytes }) => storedBytes),
  ]);
  await query(FORGET_SEGMENTS, [
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

interface LockedUpload extends StoredUpload {
  readonly recordedBytes: number;
  /** As PostgreSQL's text; null until the last byte. */
  readonly receivedAt: string | null;
}

/** In a fixed order, so that two transactions with common uploads cannot deadlock. */
const LOCK_UPLOADS = `
  SELECT ${STORED_UPLOAD}, u.offset_bytes AS "recordedBytes", u.received_at::text AS "receivedAt"
  FROM ingest.upload u WHERE u.upload_id = ANY ($1::text[]) AND u.removed_at IS NULL
  ORDER BY u.upload_id FOR NO KEY UPDATE`;

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

/** Objects behind the offset are orphans from now on. */
const FORGET_SEGMENTS = `
  DELETE FROM ingest.upload_segment s USING unnest($1::text[], $2::bigint[]) AS l (upload_id, stored_bytes)
  WHERE s.upload_id = l.upload_id AND s.from_byte >= l.stored_bytes`;

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
 * The upload with an offset that the store really holds, for a request that needs its bytes: when its file is short, the
 * record is set back first. Undefined when the upload is then removed, because no run waits for it.
 *
 * @throws a `storage_fault` when the disk fails.
 */
export async function withTrueOffset(
  db: Kysely<Database>,
  store: Store,
  upload: FoundUpload,
  onLost: (lost: readonly LostBytes[]) => void,
): Promise<FoundUpload | undefined> {
  const short = await store.maybeShort([upload]);
  if (short.length === 0) return upload;
  onLost(await setBackShort(db, store, short));
  return findUpload(db, upload.uploadId);
}

const COMPARED_AT_ONCE = 32;

/**
 * Compares all uploads with their files when the service starts: after an older copy of the folder was restored, files are
 * short or missing. Requests may arrive meanwhile, and another service may use the same folder: bytes are synced before
 * they are recorded, so a file is never shorter than its record says unless it lost bytes.
 */
export async function setBackAllShort(db: Kysely<Database>, store: Store): Promise<readonly LostBytes[]> {
  const uploads = await db
    .selectFrom('ingest.upload')
    .select([
      'upload_id as uploadId',
      sql<string>`coalesce(file, upload_id)`.as('fileName'),
      'offset_bytes as offsetBytes',
    ])
    .where('removed_at', 'is', null)
    .where('offset_bytes', '>', 0)
    .execute();
  const lost: LostBytes[] = [];
  for (let start = 0; start < uploads.length; start += COMPARED_AT_ONCE) {
    const short = await store.maybeShort(uploads.slice(start, start + COMPARED_AT_ONCE));
    lost.push(...(await setBackShort(db, store, short)));
  }
  return lost;
}

/** `setBackUploads` for uploads that may be short, in a transaction of its own. */
async function setBackShort(
  db: Kysely<Database>,
  store: Store,
  uploads: readonly UploadOffset[],
): Promise<readonly LostBytes[]> {
  if (uploads.length === 0) return [];
  const suspects = uploads.map(({ uploadId }) => uploadId);
  return db.transaction().execute(async (trx) => {
    const { lost } = await setBackUploads(queryOf(trx), suspects, 'service', async (upload) => {
      const storedBytes = await store.durableBytes(upload);
      return storedBytes < upload.recordedBytes ? storedBytes : undefined;
    });
    return lost;
  });
}
