import type { ModelName } from 'db-schema';
import type { ClientBase } from 'pg';

/** A revision whose row this transaction holds, with what must be loaded. */
export interface ClaimedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  readonly asOf: Date;
  readonly declaredBy: string;
  /** Of the claim: while it is in progress this load is alive. */
  readonly transactionId: string;
  readonly files: readonly ClaimedFile[];
}

export interface ClaimedFile {
  readonly name: string;
  readonly uploadId: string;
  /** In the folder of the uploads. */
  readonly fileName: string;
  /** As the database writes it, to the microsecond; null when bytes of it were lost since the run was queued. */
  readonly receivedAt: string | null;
  /** Nobody can send it again: the run has to be declared anew. */
  readonly isRemoved: boolean;
  readonly bytes: number;
  /** Lower-case hex; null for a plain tus upload, which declares none. */
  readonly sha256: string | null;
  readonly lines: number | null;
}

/**
 * Takes a queued revision that nobody holds and whose next try is due. The claim lasts as long as the client's open
 * transaction, and ends with it: that is the lease.
 *
 * Models and tokens take turns: the run is next whose model and whose token were both served longest ago, so that
 * 300 runs of one model delay another model's run by no more than the loads that are already running. Of one model
 * and token the oldest is next.
 */
export async function claimNextLoad(client: ClientBase): Promise<ClaimedRevision | undefined> {
  const { rows } = await client.query<Omit<ClaimedRevision, 'files'>>(`
    WITH served AS MATERIALIZED (
      SELECT s.model, s.declared_by, a.attempt_id
      FROM (SELECT * FROM ingest.load_attempt ORDER BY attempt_id DESC LIMIT ${REMEMBERED_LOADS}) a
      JOIN ingest.run_revision s USING (revision_id)),
    by_model AS MATERIALIZED (SELECT model, max(attempt_id) AS last FROM served GROUP BY model),
    by_token AS MATERIALIZED (SELECT declared_by, max(attempt_id) AS last FROM served GROUP BY declared_by)
    SELECT r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision,
           r.as_of AS "asOf", r.declared_by AS "declaredBy", pg_current_xact_id()::text AS "transactionId"
    FROM ingest.run_revision r
    LEFT JOIN by_model m ON m.model = r.model
    LEFT JOIN by_token t ON t.declared_by = r.declared_by
    WHERE r.state = 'queued'
      AND NOT EXISTS (
        SELECT FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id AND a.next_try_at > now())
    ORDER BY greatest(coalesce(m.last, 0), coalesce(t.last, 0)), coalesce(m.last, 0), r.queued_at, r.revision_id
    LIMIT 1
    FOR NO KEY UPDATE OF r SKIP LOCKED`);
  const [claimed] = rows;
  if (claimed === undefined) return undefined;
  const files = await client.query<ClaimedFile>(
    `SELECT f.name, f.upload_id AS "uploadId", coalesce(u.file, u.upload_id) AS "fileName",
            u.received_at::text AS "receivedAt", u.removed_at IS NOT NULL AS "isRemoved",
            f.bytes, encode(f.sha256, 'hex') AS sha256, f.lines
     FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
     WHERE f.revision_id = $1 ORDER BY f.name`,
    [claimed.revisionId],
  );
  return { ...claimed, files: files.rows };
}

/** Turns are remembered this far back; more models and tokens than this at once begin anew. */
const REMEMBERED_LOADS = 1_000;
