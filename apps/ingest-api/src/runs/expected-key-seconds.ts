import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';

const LOADS_LOOKED_AT = 5;
/** A sort of half or of double the rows still takes about its share of the time; farther off nobody knows. */
const COMPARABLE_SIZE = 2;

/** How long the key of `rows` rows took in the model's last loads of that size, at the median; null without any. */
export async function expectedKeySeconds(
  db: Kysely<Database>,
  model: string,
  rows: number,
): Promise<number | null> {
  const { rows: answer } = await sql<{ secondsPerRow: number | null }>`
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds / rows_done) AS "secondsPerRow"
    FROM (
      SELECT (a.phase_seconds->>'building_key')::float8 AS seconds, a.rows_done
      FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id)
      WHERE r.model = ${model} AND a.outcome IN ('published', 'superseded', 'held')
        AND a.phase_seconds ? 'building_key'
        AND a.rows_done BETWEEN ${Math.ceil(rows / COMPARABLE_SIZE)} AND ${rows * COMPARABLE_SIZE}
        AND a.rows_done > 0
      ORDER BY a.attempt_id DESC LIMIT ${LOADS_LOOKED_AT}) l`.execute(db);
  const perRow = answer[0]?.secondsPerRow ?? null;
  return perRow === null ? null : perRow * rows;
}
