import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { dueFigures } from './due.ts';
import { isStalled, STALLED_AFTER_SECONDS } from './files.ts';
import { isLoading } from './summaries.ts';

/** The state of the whole service; it counts the runs of `models` (null: all). */
export async function statusOverview(db: Kysely<Database>, models: readonly string[] | null) {
  const [queue, receiving, loaders, states] = await Promise.all([
    queueOf(db, models),
    receivingOf(db, models),
    countLoaders(db),
    statesOf(db, models),
  ]);
  return {
    queue,
    receiving: { ...receiving, stalledAfterSeconds: STALLED_AFTER_SECONDS },
    loaders,
    states,
  };
}

function ofModels(models: readonly string[] | null, column: string) {
  return models === null ? sql`true` : sql`${sql.ref(column)} = ANY (${[...models]}::text[])`;
}

async function queueOf(db: Kysely<Database>, models: readonly string[] | null) {
  const { rows } = await sql<{
    waiting: number;
    loading: number;
    betweenTries: number;
    oldestQueuedAt: Date | null;
    oldestWaitSeconds: number | null;
  }>`
    SELECT count(*) FILTER (WHERE NOT q.loading) AS waiting,
           count(*) FILTER (WHERE q.loading) AS loading,
           count(*) FILTER (WHERE NOT q.loading AND q.attempts > 0) AS "betweenTries",
           min(q.queued_at) FILTER (WHERE NOT q.loading) AS "oldestQueuedAt",
           extract(epoch FROM now() - min(q.queued_at) FILTER (WHERE NOT q.loading))::float8 AS "oldestWaitSeconds"
    FROM (
      SELECT r.queued_at, ${isLoading(sql.ref('r.revision_id'))} AS loading,
             (SELECT count(*) FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id) AS attempts
      FROM ingest.run_revision r
      WHERE r.state = 'queued' AND ${ofModels(models, 'r.model')}) q`.execute(db);
  return (
    rows[0] ?? { waiting: 0, loading: 0, betweenTries: 0, oldestQueuedAt: null, oldestWaitSeconds: null }
  );
}

async function receivingOf(db: Kysely<Database>, models: readonly string[] | null) {
  const { rows } = await sql<{
    runs: number;
    files: number;
    stalledFiles: number;
    missingBytes: number;
  }>`
    SELECT count(DISTINCT r.revision_id) AS runs, count(*) AS files,
           count(*) FILTER (WHERE ${isStalled()}) AS "stalledFiles",
           coalesce(sum(u.bytes - u.offset_bytes), 0)::bigint AS "missingBytes"
    FROM ingest.run_revision r
    JOIN ingest.run_file f USING (revision_id)
    JOIN ingest.upload u ON u.upload_id = f.upload_id AND u.received_at IS NULL
    WHERE r.state = 'receiving' AND ${ofModels(models, 'r.model')}`.execute(db);
  return rows[0] ?? { runs: 0, files: 0, stalledFiles: 0, missingBytes: 0 };
}

/**
 * Each loader listens to the queue on one connection of this name. `pg_stat_activity` shows the names of
 * other roles' connections to everybody, but not their statements.
 */
async function countLoaders(db: Kysely<Database>): Promise<number> {
  const { rows } = await sql<{ loaders: number }>`
    SELECT count(*) AS loaders FROM pg_stat_activity
    WHERE application_name = 'ingest-api load (queue)' AND datname = current_database()`.execute(db);
  return rows[0]?.loaders ?? 0;
}

async function statesOf(
  db: Kysely<Database>,
  models: readonly string[] | null,
): Promise<Record<string, number>> {
  const { rows } = await sql<{ state: string; runs: number }>`
    SELECT state, count(*) AS runs FROM (
      SELECT DISTINCT ON (model, run_key) model, state FROM ingest.run_revision
      ORDER BY model DESC, run_key DESC, revision DESC) r
    WHERE ${ofModels(models, 'r.model')}
    GROUP BY state ORDER BY state`.execute(db);
  return Object.fromEntries(rows.map(({ state, runs }) => [state, runs]));
}

export type ServiceFigures = Awaited<ReturnType<typeof serviceFigures>>;

/** Totals since the service was installed, and the present state: what monitoring reads every few seconds. */
export async function serviceFigures(db: Kysely<Database>) {
  const [overview, byName, published, uploads, loads, phases, loaded, sums] = await Promise.all([
    statusOverview(db, null),
    dueFigures(db),
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
    ...byName,
    published: published.rows,
    uploads: uploads.rows[0] ?? { created: 0, finished: 0, bytes: 0 },
    loads: loads.rows,
    phases: phases.rows,
    loaded: loaded.rows[0] ?? { rows: 0, bytes: 0 },
    rejectedLines: sums.rows[0]?.rejected ?? 0,
    denials: sums.rows[0]?.denials ?? 0,
  };
}
