import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { isLoading } from './live-loads.ts';
import { isStalled, STALLED_AFTER_SECONDS } from './stalled.ts';

/** The whole service at one look; of runs, those of `models` (null: all). */
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
 * Each loader listens to the queue on one connection of that name. Other roles' connections show their
 * name to everybody in `pg_stat_activity`, but not what they do.
 */
export async function countLoaders(db: Kysely<Database>): Promise<number> {
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
