import { type RawBuilder, sql } from 'kysely';

/** A loader reports twice a second; one that has not reported for this long is frozen, and does not load. */
const REPORTS_WITHIN = '2 minutes';

/**
 * SQL: true while a loader works on the revision of that id: its newest attempt has not ended, the transaction of that
 * attempt is in progress, and it reports. Nobody else can make that so, or hide it: no lock that a login of the
 * database can take is part of it. (An id from the future comes from a restored database; PostgreSQL refuses to tell
 * of it.)
 */
export function isLoading(revisionId: RawBuilder<number>): RawBuilder<boolean> {
  return sql<boolean>`EXISTS (
    SELECT FROM ingest.load_attempt l
    WHERE l.revision_id = ${revisionId} AND l.finished_at IS NULL
      AND l.updated_at > now() - ${sql.lit(REPORTS_WITHIN)}::interval
      AND CASE WHEN l.transaction_id < pg_snapshot_xmax(pg_current_snapshot())
               THEN pg_xact_status(l.transaction_id) = 'in progress' END)`;
}
