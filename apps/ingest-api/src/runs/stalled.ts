import { type RawBuilder, sql } from 'kysely';

/**
 * A file that has brought no byte for so long counts as stalled: twice the pause after which the uploader
 * gives a request up and tries again.
 */
export const STALLED_AFTER_SECONDS = 120;

/** SQL: true for an upload (the row `u`) that is not finished and has stopped. */
export function isStalled(): RawBuilder<boolean> {
  return sql<boolean>`(u.received_at IS NULL
    AND u.last_progress_at < now() - ${sql.lit(STALLED_AFTER_SECONDS)} * interval '1 second')`;
}
