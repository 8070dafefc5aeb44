import type { Database } from 'db-schema';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { ModelName } from 'wire';
import { IngestError } from '../errors.ts';
import type { ClaimAnswer, UploadRecord, UploadRecords } from '../store/claims.ts';
import { seemsShort, storedBytes, toDiskFault } from '../store/folder.ts';
import { SENT_BY_UPLOAD } from './files.ts';
import { type Query, queryOf, transition } from './transitions.ts';

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
const NOBODY = 'nobody';

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

/** An upload whose file may not hold what was acknowledged. */
export interface Suspect {
  readonly uploadId: string;
  /**
   * Set when its content was read and is not what was declared: when it had been received, as the database writes it. What
   * was sent again since is left alone. Left out, the file is looked at: it may be short.
   */
  readonly wrongSince?: string;
}

/** An upload that went back to what its file holds; to nothing when what it holds is wrong. */
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
 * Sets uploads back to what is there, and the runs that wait with them to `receiving`, so that the same push sends
 * the rest at once. An upload that no run waits for is removed: nobody may take it for content that is there. The one
 * place that does so, for a start, a request and a load alike; to be called inside a transaction.
 *
 * A run that a loader holds just now is left to that loader: it has the file open, or comes here by itself.
 *
 * @param actor who has found it, for the run's history.
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
    // While the record is locked nobody moves its offset, and the file is never behind it.
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

/** In one order, so that two who lock some of the same never wait for each other. */
const LOCK_UPLOADS = `
  SELECT upload_id AS "uploadId", coalesce(file, upload_id) AS "fileName", offset_bytes AS "recordedBytes",
         received_at::text AS "receivedAt"
  FROM ingest.upload WHERE upload_id = ANY ($1::text[]) AND removed_at IS NULL
  ORDER BY upload_id FOR NO KEY UPDATE`;

/**
 * Whoever writes it now has a file open that is not what it seems, and may write on: the next one takes another file
 * (`upload-locks.ts`). The upload is given its time anew.
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

/** Also for an upload that somebody else set back a moment ago. */
const SENT_BY_THESE = `r.revision_id = ANY (ARRAY(
  SELECT w.revision_id FROM ingest.run_revision w
  WHERE w.state IN ('receiving', 'queued') AND w.revision_id = ANY (ARRAY(
    SELECT f.revision_id FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.upload_id = ANY ($1::text[]) AND u.received_at IS NULL))
  FOR NO KEY UPDATE SKIP LOCKED))`;

/** In the history of each run that waits for bytes again. */
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

/** The same, as a transaction of the service. */
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

/**
 * An upload as its record and its file say, for a request that needs its bytes: when the file is short, the record is set
 * back first. Undefined when that leaves nobody who waits for it.
 *
 * @throws a `storage_fault` when the disk does not tell.
 */
export async function withTrueOffset<Upload extends StandingUpload & { readonly model: ModelName }>(
  db: Kysely<Database>,
  dataDir: string,
  upload: Upload,
  onLost: (lost: readonly LostBytes[]) => void,
): Promise<StandingUpload | undefined> {
  const { uploadId, fileName, offsetBytes } = upload;
  try {
    if (!(await seemsShort(dataDir, fileName, offsetBytes))) return upload;
    onLost(await setBackShort(db, dataDir, [uploadId]));
  } catch (error) {
    throw toDiskFault(error, uploadId);
  }
  return findUpload(db, uploadId);
}

const LOOKED_AT_ONCE = 32;

/**
 * Compares all uploads with the folder, which alone knows what is there: after an older copy of it was restored, files are
 * short or missing. For the start of a service. Requests that come meanwhile, and another service on the same folder, do
 * no harm: bytes are synced before they are recorded.
 */
export async function setBackAllShort(db: Kysely<Database>, dataDir: string): Promise<readonly LostBytes[]> {
  const uploads = await db
    .selectFrom('ingest.upload')
    .select(['upload_id', 'file', 'offset_bytes'])
    .where('removed_at', 'is', null)
    .where('offset_bytes', '>', 0)
    .execute();
  const lost: LostBytes[] = [];
  for (let start = 0; start < uploads.length; start += LOOKED_AT_ONCE) {
    const some = uploads.slice(start, start + LOOKED_AT_ONCE);
    const short = await Promise.all(
      some.map(({ upload_id, file, offset_bytes }) => seemsShort(dataDir, file ?? upload_id, offset_bytes)),
    );
    const ids = some.filter((_, i) => short[i]).map(({ upload_id }) => upload_id);
    lost.push(...(await setBackShort(db, dataDir, ids)));
  }
  return lost;
}
