import { type Kysely, sql } from 'kysely';

/**
 * What is kept of a loaded revision so that it can be judged, compared, rolled back to and cleared away, and
 * the order in which rejected lines are told.
 */
export async function up(db: Kysely<never>): Promise<void> {
  await sql`
    ALTER TABLE ingest.run_revision
      ADD COLUMN profile jsonb,
      ADD COLUMN gates jsonb,
      ADD COLUMN compared_with integer REFERENCES ingest.run_revision,
      ADD COLUMN retired_at timestamptz;
    COMMENT ON COLUMN ingest.run_revision.profile IS 'what the scores look like: rows, min, max, mean, stddev, deciles, bytes, seconds';
    COMMENT ON COLUMN ingest.run_revision.gates IS 'each gate of the contract as it was judged: expected, found, broken';
    COMMENT ON COLUMN ingest.run_revision.compared_with IS 'the revision that was published when this one was judged';
    COMMENT ON COLUMN ingest.run_revision.retired_at IS 'its rows are given up: gone from run_data, or about to go';

    ALTER TABLE ingest.rejected_line
      ADD COLUMN reject_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
    DROP INDEX ingest.rejected_line_revision;
    CREATE INDEX rejected_line_revision ON ingest.rejected_line (revision_id, reject_id);

    ALTER TABLE ingest.upload ADD COLUMN file_removed_at timestamptz;
    COMMENT ON COLUMN ingest.upload.file_removed_at IS 'its bytes are gone from the disk; removed_at says that they may go';
    CREATE INDEX upload_file_to_remove ON ingest.upload (upload_id) WHERE removed_at IS NOT NULL AND file_removed_at IS NULL`.execute(
    db,
  );
}
