import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { removeUploadFiles } from '../store/folder.ts';
import { SENT_BY_UPLOAD } from './files.ts';
import { recordAudit } from './history.ts';
import { type MovedRevision, queryOf, transition } from './transitions.ts';

interface FileRetention {
  /** Files stay this long after the last load that used them. */
  readonly keepFilesMs: number;
  /** A run that receives no byte for this long is cancelled. */
  readonly expireUploadsMs: number;
}

interface RemovalReport {
  /** Runs that were cancelled. */
  readonly expired: readonly MovedRevision[];
  readonly removedFiles: number;
  readonly removedBytes: number;
}

/**
 * Cancels runs that nobody sends any more, and removes the files that no run needs: neither one that waits for
 * its files or its load, nor one that was declared or loaded a short while ago. One sweep at a time; what a kill
 * leaves undone the next one does.
 */
export async function removeFiles(
  db: Kysely<Database>,
  dataDir: string,
  retention: FileRetention,
): Promise<RemovalReport> {
  const expired = await asOnlySweep(db, [], async (trx) => {
    const given = await expireRuns(trx, retention.expireUploadsMs);
    await giveUpFiles(trx, retention.keepFilesMs);
    await forgetWriters(trx);
    return given;
  });
  const removed = await asOnlySweep(db, { removedFiles: 0, removedBytes: 0 }, (trx) =>
    removeGivenUp(trx, dataDir),
  );
  return { expired, ...removed };
}

/** @returns `otherwise` when somebody else sweeps just now. */
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

/** What a kill leaves removed from the disk, and not yet recorded, the next sweep records. */
async function removeGivenUp(trx: Transaction<Database>, dataDir: string) {
  const given = await trx
    .selectFrom('ingest.upload')
    .select(['upload_id', 'offset_bytes'])
    .where('removed_at', 'is not', null)
    .where('file_removed_at', 'is', null)
    .execute();
  const ids = given.map(({ upload_id }) => upload_id);
  await removeUploadFiles(dataDir, new Set(ids));
  await sql`UPDATE ingest.upload SET file_removed_at = now() WHERE upload_id = ANY (${ids}::text[])`.execute(
    trx,
  );
  const removedBytes = given.reduce((sum, { offset_bytes }) => sum + offset_bytes, 0);
  return { removedFiles: given.length, removedBytes };
}

/** Writers that were killed: whoever looks for one that is not there knows that it is gone. */
async function forgetWriters(trx: Transaction<Database>): Promise<void> {
  await sql`DELETE FROM ingest.writer WHERE beat_at < now() - interval '10 minutes'`.execute(trx);
}

/** By last activity, not by age: an upload of days is fine as long as bytes arrive. */
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
 * Locked first and judged after, in a statement of its own: a declaration that shares an upload (FOR SHARE) is
 * then seen, or sees that the upload is gone.
 */
async function giveUpFiles(trx: Transaction<Database>, afterMs: number): Promise<void> {
  const { rows } = await sql<{ upload_id: string }>`
    SELECT upload_id FROM ingest.upload u
    WHERE u.removed_at IS NULL AND u.last_progress_at < ${before(whenAbandoned(afterMs))} AND ${isNotNeeded(afterMs)}
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
        CASE WHEN r.state = 'cancelled' THEN ${before(whenAbandoned(afterMs))} ELSE ${before(afterMs)} END))`;
}

/** Files of withdrawn runs stay for at most an hour: a push that follows may share them, and they count in the quota. */
function whenAbandoned(afterMs: number): number {
  return Math.min(afterMs, 60 * 60 * 1000);
}

function before(ms: number) {
  return sql<Date>`now() - ${ms} * interval '1 millisecond'`;
}
