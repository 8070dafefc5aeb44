import { type RawBuilder, sql } from 'kysely';

/**
 * A loader holds this advisory lock for the time of its load's transaction, so that everybody can see
 * in `pg_locks` that a load is alive. It guards nothing: the row lock of the claim does.
 */
export const LIVE_LOAD_LOCK_CLASS = 0x5c0e;

/** SQL: true while a loader works on the revision of that id. */
export function isLoading(revisionId: RawBuilder<number>): RawBuilder<boolean> {
  return sql<boolean>`EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid::bigint = ${sql.lit(LIVE_LOAD_LOCK_CLASS)} AND l.objid::bigint = ${revisionId})`;
}
