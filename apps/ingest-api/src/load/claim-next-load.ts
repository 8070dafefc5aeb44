import type { ModelName } from 'db-schema';
import type { ClientBase } from 'pg';
import { LIVE_LOAD_LOCK_CLASS } from '../runs/live-loads.ts';

/** A revision whose row this transaction holds, with what must be loaded. */
export interface ClaimedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  readonly asOf: Date;
  readonly declaredBy: string;
  readonly files: readonly ClaimedFile[];
}

export interface ClaimedFile {
  readonly name: string;
  readonly uploadId: string;
  readonly bytes: number;
  /** Lower-case hex; null for a plain tus upload, which declares none. */
  readonly sha256: string | null;
  readonly lines: number | null;
}

/**
 * Takes the oldest queued revision that nobody holds and whose next try is due. The claim lives as long as the
 * client's open transaction, and ends with it: that is the lease.
 */
export async function claimNextLoad(client: ClientBase): Promise<ClaimedRevision | undefined> {
  const { rows } = await client.query<Omit<ClaimedRevision, 'files'>>(`
    SELECT r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision,
           r.as_of AS "asOf", r.declared_by AS "declaredBy"
    FROM ingest.run_revision r
    WHERE r.state = 'queued'
      AND NOT EXISTS (
        SELECT FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id AND a.next_try_at > now())
    ORDER BY r.queued_at, r.revision_id
    LIMIT 1
    FOR NO KEY UPDATE OF r SKIP LOCKED`);
  const [claimed] = rows;
  if (claimed === undefined) return undefined;
  await client.query('SELECT pg_advisory_xact_lock($1, $2)', [LIVE_LOAD_LOCK_CLASS, claimed.revisionId]);
  const files = await client.query<ClaimedFile>(
    `SELECT name, upload_id AS "uploadId", bytes, encode(sha256, 'hex') AS sha256, lines
     FROM ingest.run_file WHERE revision_id = $1 ORDER BY name`,
    [claimed.revisionId],
  );
  return { ...claimed, files: files.rows };
}
