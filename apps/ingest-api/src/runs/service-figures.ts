import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { statusOverview } from './status-overview.ts';

export type ServiceFigures = Awaited<ReturnType<typeof serviceFigures>>;

/** Totals over all that was ever recorded, and how it stands now: what monitoring asks every few seconds. */
export async function serviceFigures(db: Kysely<Database>) {
  const [overview, published, uploads, loads, phases, loaded, sums] = await Promise.all([
    statusOverview(db, null),
    sql<{ model: string; at: number }>`
      SELECT model, extract(epoch FROM max(published_at))::float8 AS at
      FROM ingest.publication GROUP BY model`.execute(db),
    sql<{ created: number; finished: number; bytes: number }>`
      SELECT count(*) AS created, count(received_at) AS finished,
             coalesce(sum(offset_bytes), 0)::bigint AS bytes
      FROM ingest.upload`.execute(db),
    sql<{ outcome: string; count: number; seconds: number }>`
      SELECT outcome, count(*) AS count,
             sum(greatest(0, extract(epoch FROM finished_at - started_at)))::float8 AS seconds
      FROM ingest.load_attempt WHERE outcome IS NOT NULL GROUP BY outcome`.execute(db),
    sql<{ phase: string; seconds: number }>`
      SELECT key AS phase, sum(value::float8) AS seconds
      FROM ingest.load_attempt, jsonb_each_text(phase_seconds) GROUP BY key`.execute(db),
    sql<{ rows: number; bytes: number }>`
      SELECT coalesce(sum(rows_done), 0)::bigint AS rows, coalesce(sum(bytes_done), 0)::bigint AS bytes
      FROM ingest.load_attempt WHERE outcome IN ('published', 'superseded', 'held')`.execute(db),
    sql<{ rejected: number; denials: number }>`
      SELECT (SELECT coalesce(sum((rejects->>'total')::bigint), 0)::bigint FROM ingest.run_revision) AS rejected,
             (SELECT count(*) FROM ingest.audit_event WHERE action = 'deny') AS denials`.execute(db),
  ]);
  return {
    ...overview,
    published: published.rows,
    uploads: uploads.rows[0] ?? { created: 0, finished: 0, bytes: 0 },
    loads: loads.rows,
    phases: phases.rows,
    loaded: loaded.rows[0] ?? { rows: 0, bytes: 0 },
    rejectedLines: sums.rows[0]?.rejected ?? 0,
    denials: sums.rows[0]?.denials ?? 0,
  };
}
