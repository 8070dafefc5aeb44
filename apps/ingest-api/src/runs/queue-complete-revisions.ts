import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';

/** The channel that idle loaders listen on. */
export const QUEUE_CHANNEL = 'ingest_queue';

export interface QueuedRevision {
  readonly revision_id: number;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
}

/**
 * Queues every revision that has all its files, and wakes the loaders. Idempotent: called after each finished
 * file, and by the sweep for what a crash left undone.
 *
 * Files are sent in the order of their names, so the last name is the one to be missing: asked for first, it
 * spares a run of 10,000 files from being read through with each file. (Not as NOT EXISTS: the planner drops
 * ORDER BY and LIMIT there, and reads every upload that there is.)
 *
 * It must be a statement of its own, after the file's `received_at` has committed: of two files that finish at
 * once, the later one sees both.
 */
export async function queueCompleteRevisions(db: Kysely<Database>): Promise<readonly QueuedRevision[]> {
  const { rows } = await sql<QueuedRevision>`
    WITH complete AS (
      UPDATE ingest.run_revision r
      SET state = 'queued', queued_at = now()
      WHERE r.state = 'receiving'
        AND (
          SELECT f.name FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
          WHERE f.revision_id = r.revision_id AND u.received_at IS NULL
          ORDER BY f.name DESC LIMIT 1) IS NULL
      RETURNING r.revision_id, r.model, r.run_key, r.revision)
    SELECT *, pg_notify(${QUEUE_CHANNEL}, revision_id::text) FROM complete`.execute(db);
  return rows;
}
