import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Segment, Store, StoredUpload } from '../store/store.ts';
import { SENT_BY_UPLOAD } from './files.ts';
import { recordAudit } from './history.ts';
import { type MovedRevision, queryOf, transition } from './transitions.ts';

interface FileRetention {
  /** Files are kept for this long after the last load that used them. */
  readonly keepFilesMs: number;
  /** Runs that receive no bytes for this long are cancelled. */
  readonly expireUploadsMs: number;
}

interface RemovalReport {
  /** Runs that were cancelled. */
  readonly expired: readonly MovedRevision[];
  readonly removedFiles: number;
  readonly removedBytes: number;
}

/**
 * Cancels runs that receive no bytes any more, and removes files that no run needs. A run needs its files while it waits
 * for bytes or for its load, and for a time after it was declared or loaded. The next sweep completes one that was killed.
 */
export async function removeFiles(
  db: Kysely<Database>,
  store: Store,
  retention: FileRetention,
): Promise<RemovalReport> {
  const expired = await asOnlySweep(db, [], async (trx) => {
    const cancelled = await expireRuns(trx, retention.expireUploadsMs);
    await markUnneededFiles(trx, retention.keepFilesMs);
    await forgetWriters(trx);
    return cancelled;
  });
  return { expired, ...(await removeMarkedFiles(db, store)) };
}

/**
 * Removes objects of a bucket that no segment names: those of writers that were killed or fenced between the write and its
 * record, and those of uploads that were set back.
 *
 * @returns how many.
 */
export async function removeOrphans(db: Kysely<Database>, store: Store): Promise<number> {
  return store.removeOrphans(async (keys) => {
    const { rows } = await sql<{ object_key: string }>`
      SELECT object_key FROM ingest.upload_segment WHERE object_key = ANY (${keys}::text[])`.execute(db);
    return new Set(rows.map((row) => row.object_key));
  });
}

/** @returns `otherwise` when another process is sweeping. */
async function asOnlySweep<T>(
  db: Kysely<Database>,
  otherwise: T,
  sweep: (trx: Transaction<Database>) => Promise<T>,
): Promise<T> {
  return db.transaction().execute(async (trx) => {
    const turn = await trx
      .selectFrom('ingest.sweep')
      .select('name')
      .where('name', '=', 'files')
      .forUpdate()
      .skipLocked()
      .executeTakeFirst();
    return turn === undefined ? otherwise : sweep(trx);
  });
}

/** By last activity, not by age: an upload may take days while bytes arrive. */
async function expireRuns(trx: Transaction<Database>, afterMs: number): Promise<readonly MovedRevision[]> {
  const expired = await transition(
    queryOf(trx),
    'expire',
    `r.declared_at < now() - $1 * interval '1 millisecond'
     AND NOT EXISTS (
       SELECT FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
       WHERE f.revision_id = r.revision_id AND u.last_progress_at >= now() - $1 * interval '1 millisecond')`,
    [afterMs],
  );
  for (const { model, run, revision } of expired)
    await recordAudit(trx, { actor: 'service', action: 'expire', model, run, revision });
  return expired;
}

/**
 * One statement locks the uploads, and a second one checks them again: it sees each declaration that shares one of them
 * (FOR SHARE), or that declaration sees that the upload is removed.
 */
async function markUnneededFiles(trx: Transaction<Database>, afterMs: number): Promise<void> {
  const { rows } = await sql<{ upload_id: string }>`
    SELECT upload_id FROM ingest.upload u
    WHERE u.removed_at IS NULL AND u.last_progress_at < ${ago(withdrawnKeepMs(afterMs))} AND ${isNotNeeded(afterMs)}
    FOR UPDATE SKIP LOCKED`.execute(trx);
  if (rows.length === 0) return;
  await sql`
    UPDATE ingest.upload u SET removed_at = now()
    WHERE u.upload_id = ANY (${rows.map((row) => row.upload_id)}::text[]) AND ${isNotNeeded(afterMs)}`.execute(
    trx,
  );
}

function isNotNeeded(afterMs: number) {
  return sql<boolean>`NOT EXISTS (
    SELECT FROM ingest.run_revision r
    WHERE ${sql.raw(SENT_BY_UPLOAD)}
      AND (r.state IN ('receiving', 'queued') OR coalesce(r.loaded_at, r.declared_at) >=
        CASE WHEN r.state = 'cancelled' THEN ${ago(withdrawnKeepMs(afterMs))} ELSE ${ago(afterMs)} END))`;
}

/** Files of cancelled runs are kept for at most an hour: the next push may share them, but they count in the quota. */
function withdrawnKeepMs(afterMs: number): number {
  return Math.min(afterMs, 60 * 60 * 1000);
}

function ago(ms: number) {
  return sql<Date>`now() - ${ms} * interval '1 millisecond'`;
}

/** Deletes the rows of killed writers. A writer without a row counts as gone (`store/writers.ts`). */
async function forgetWriters(trx: Transaction<Database>): Promise<void> {
  await sql`DELETE FROM ingest.writer WHERE beat_at < now() - interval '10 minutes'`.execute(trx);
}

/** Objects, or files, that are removed before the removal is recorded: one request to a bucket. */
const REMOVED_AT_ONCE = 1_000;

/**
 * Removes the files of marked uploads, and records it after each batch. No transaction is open while the store works: its
 * connection would be silent for longer than a service waits (`silenceTimeoutMs`). None is needed, because a mark is final:
 * nobody writes, shares or loads such an upload any more. Two processes may remove the same files; one of them counts them.
 */
async function removeMarkedFiles(db: Kysely<Database>, store: Store) {
  let removedFiles = 0;
  let removedBytes = 0;
  for (;;) {
    const batch = await markedBatch(db);
    if (batch.length === 0) return { removedFiles, removedBytes };
    await store.remove(batch);
    const ids = batch.map(({ uploadId }) => uploadId);
    const keys = batch.flatMap(({ segments }) => segments.map(({ key }) => key));
    const { rows } = await sql<{ offset_bytes: number }>`
      WITH removed AS (
        DELETE FROM ingest.upload_segment WHERE upload_id = ANY (${ids}::text[]) AND object_key = ANY (${keys}::text[]))
      UPDATE ingest.upload u SET file_removed_at = now()
      WHERE u.upload_id = ANY (${ids}::text[]) AND u.file_removed_at IS NULL
        AND NOT EXISTS (
          SELECT FROM ingest.upload_segment s WHERE s.upload_id = u.upload_id AND s.object_key <> ALL (${keys}::text[]))
      RETURNING offset_bytes`.execute(db);
    removedFiles += rows.length;
    for (const { offset_bytes } of rows) removedBytes += offset_bytes;
  }
}

/** Marked uploads with at most `REMOVED_AT_ONCE` segments in all; the last one may have more, which the next batch has. */
async function markedBatch(db: Kysely<Database>): Promise<readonly StoredUpload[]> {
  const { rows } = await sql<{ uploadId: string; fileName: string; segment: Segment | null }>`
    SELECT u.upload_id AS "uploadId", coalesce(u.file, u.upload_id) AS "fileName",
           CASE WHEN s.object_key IS NOT NULL THEN jsonb_build_object(
             'fromByte', s.from_byte, 'bytes', s.bytes, 'key', s.object_key, 'crc32', s.crc32) END AS segment
    FROM ingest.upload u LEFT JOIN ingest.upload_segment s USING (upload_id)
    WHERE u.removed_at IS NOT NULL AND u.file_removed_at IS NULL
    ORDER BY u.upload_id, s.from_byte LIMIT ${REMOVED_AT_ONCE}`.execute(db);
  return [...Map.groupBy(rows, ({ uploadId }) => uploadId)].map(([uploadId, found]) => ({
    uploadId,
    fileName: found[0]?.fileName ?? uploadId,
    segments: found.flatMap(({ segment }) => segment ?? []),
  }));
}

/** Revisions, uploads or audit events that one transaction of `pruneHistory` deletes. */
const PRUNED_AT_ONCE = 500;
/** Revisions with more files in all are deleted in several transactions, each of which ends soon; one revision in any case. */
const FILES_PRUNED_AT_ONCE = 20_000;
/** A sweep deletes this many times as much at most: requests have their turn in between, and the next sweep continues. */
const BATCHES = 40;

/** How many rows of each `pruneHistory` has deleted. */
interface PruneReport {
  readonly revisions: number;
  readonly uploads: number;
  readonly auditEvents: number;
}

/**
 * Deletes what is known of runs that ended longer ago than `keepMs`: their revisions with files, attempts, rejected lines and
 * publications, their uploads, and audit events. It keeps what readers see, what an operator may publish (held
 * revisions, and those whose rows are kept), and what such a revision was compared with. Of each run the row with its key
 * stays: it numbers later revisions, and gives the same content the date that it had.
 *
 * The oldest revision of a run is deleted first, so that numbers are never used again.
 */
export async function pruneHistory(db: Kysely<Database>, keepMs: number): Promise<PruneReport> {
  const inBatches = async (prune: (trx: Transaction<Database>) => Promise<number>) => {
    let pruned = 0;
    for (let batch = 0; batch < BATCHES; batch += 1) {
      const count = await asOnlySweep(db, 0, prune);
      pruned += count;
      if (count === 0) break;
    }
    return pruned;
  };
  return {
    revisions: await inBatches((trx) => pruneRevisions(trx, keepMs)),
    uploads: await inBatches((trx) => pruneUploads(trx, keepMs)),
    auditEvents: await inBatches((trx) => pruneAudit(trx, keepMs)),
  };
}

/** The rows of run and revision are locked: nobody declares, withdraws or publishes what is being deleted. */
async function pruneRevisions(trx: Transaction<Database>, keepMs: number): Promise<number> {
  const { rows } = await sql<{ revision_id: number }>`
    WITH prunable AS MATERIALIZED (
      SELECT r.revision_id, r.declared_at, r.file_count
      FROM ingest.run_revision r JOIN ingest.run k USING (model, run_key)
      WHERE r.state IN ('superseded', 'failed', 'cancelled') AND r.declared_at < ${ago(keepMs)}
        AND greatest(r.declared_at, r.loaded_at, r.published_at, r.retired_at) < ${ago(keepMs)}
        AND NOT EXISTS (
          SELECT FROM ingest.run_revision o
          WHERE o.model = r.model AND o.run_key = r.run_key AND o.revision < r.revision)
        AND NOT EXISTS (
          SELECT FROM ingest.run_revision c
          WHERE c.compared_with = r.revision_id
            AND (c.state IN ('receiving', 'queued', 'held', 'published') OR ${keepsRows('c')}))
        AND NOT ${keepsRows('r')}
      ORDER BY r.declared_at LIMIT ${PRUNED_AT_ONCE}
      FOR UPDATE SKIP LOCKED),
    chosen AS (
      SELECT revision_id FROM (
        SELECT revision_id, sum(file_count) OVER (ORDER BY declared_at, revision_id) AS files,
               row_number() OVER (ORDER BY declared_at, revision_id) AS place
        FROM prunable) p
      WHERE files <= ${FILES_PRUNED_AT_ONCE} OR place = 1)
    UPDATE ingest.run k
    SET pruned_revision = r.revision, pruned_as_of = r.as_of,
        pruned_sha256 = CASE WHEN r.state <> 'cancelled' THEN r.manifest_sha256 END
    FROM chosen JOIN ingest.run_revision r USING (revision_id)
    WHERE k.model = r.model AND k.run_key = r.run_key
    RETURNING r.revision_id`.execute(trx);
  if (rows.length === 0) return 0;
  await sql`DELETE FROM ingest.run_revision
    WHERE revision_id = ANY (${rows.map((row) => row.revision_id)}::int[])`.execute(trx);
  return rows.length;
}

/** SQL: true while the revision has a table with its rows. */
function keepsRows(revision: 'r' | 'c') {
  return sql<boolean>`EXISTS (
    SELECT FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = 'run_data' AND t.relname = ${sql.ref(`${revision}.model`)} || '$' || ${sql.ref(`${revision}.revision_id`)})`;
}

async function pruneUploads(trx: Transaction<Database>, keepMs: number): Promise<number> {
  const { numAffectedRows } = await sql`
    DELETE FROM ingest.upload WHERE upload_id = ANY (ARRAY(
      SELECT u.upload_id FROM ingest.upload u
      WHERE u.file_removed_at < ${ago(keepMs)}
        AND NOT EXISTS (SELECT FROM ingest.run_file f WHERE f.upload_id = u.upload_id)
      ORDER BY u.file_removed_at LIMIT ${PRUNED_AT_ONCE}
      FOR UPDATE SKIP LOCKED))`.execute(trx);
  return Number(numAffectedRows ?? 0);
}

async function pruneAudit(trx: Transaction<Database>, keepMs: number): Promise<number> {
  const { rows } = await sql<{ pruned: number }>`
    SELECT ingest.prune_audit(${ago(keepMs)}, ${PRUNED_AT_ONCE}) AS pruned`.execute(trx);
  return rows[0]?.pruned ?? 0;
}
