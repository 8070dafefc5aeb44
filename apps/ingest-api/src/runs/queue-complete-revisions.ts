import type { Database } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { sqlStateOf } from '../errors.ts';

/** The channel that idle loaders listen on. */
export const QUEUE_CHANNEL = 'ingest_queue';

export interface QueuedRevision {
  readonly revision_id: number;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
}

/** Which revisions to look at: one, those that an upload is part of, or all that still receive. */
export type LookAt = { readonly revisionId: number } | { readonly uploadId: string } | 'all';

/**
 * Queues revisions that have all their files, and wakes the loaders. Idempotent: called after each finished
 * file, and by the sweep for what a crash left undone.
 *
 * Files are sent in the order of their names, so the last name is the one to be missing: asked for first, it
 * spares a run of 10,000 files from being read through with each file. (Not as NOT EXISTS: the planner drops
 * ORDER BY and LIMIT there, and reads every upload that there is. Not as a join: without statistics, on a new
 * database, it becomes a hash of all files, 13 ms a file at 3,000 files.)
 *
 * It must be a statement of its own, after the file's `received_at` has committed: of two files that finish at
 * once, the later one sees both.
 */
export async function queueCompleteRevisions(
  db: Kysely<Database>,
  lookAt: LookAt,
): Promise<readonly QueuedRevision[]> {
  const { rows } = await sql<QueuedRevision>`
    UPDATE ingest.run_revision r
    SET state = 'queued', queued_at = now()
    WHERE r.state = 'receiving' AND ${isLookedAt(lookAt)}
      AND (
        SELECT f.name FROM ingest.run_file f
        WHERE f.revision_id = r.revision_id
          AND NOT (SELECT received_at IS NOT NULL FROM ingest.upload u WHERE u.upload_id = f.upload_id)
        ORDER BY f.name DESC LIMIT 1) IS NULL
    RETURNING r.revision_id, r.model, r.run_key, r.revision`.execute(db);
  if (rows.length > 0) await wakeLoaders(db);
  return rows;
}

/** Any login can fill PostgreSQL's queue of notifications, by listening and never reading. */
const NOTIFY_QUEUE_FULL = '54000';

/**
 * Wakes idle loaders; without it they look every `INGEST_POLL_INTERVAL_MS`. A statement of its own, after what it
 * tells of has committed: PostgreSQL holds one lock for all that notify until their commits are on the disk, and a
 * queue that is full must not undo anything.
 */
export async function wakeLoaders(db: Kysely<Database>): Promise<void> {
  try {
    await sql`SELECT pg_notify(${QUEUE_CHANNEL}, '')`.execute(db);
  } catch (error) {
    if (sqlStateOf(error) !== NOTIFY_QUEUE_FULL) throw error;
  }
}

/** Files that finish at once would wait for each other's rows, if each looked at the runs of all of them. */
function isLookedAt(lookAt: LookAt): RawBuilder<boolean> {
  if (lookAt === 'all') return sql`true`;
  if ('revisionId' in lookAt) return sql`r.revision_id = ${lookAt.revisionId}`;
  // As an array it is asked for first; a semi-join may come after every other run has been read through.
  return sql`r.revision_id = ANY (ARRAY(
    SELECT revision_id FROM ingest.run_file WHERE upload_id = ${lookAt.uploadId}))`;
}
