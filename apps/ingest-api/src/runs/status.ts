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
    JOIN ingest.upload u ON u.upload_id = f.upload_id AND u.received_at IS NULL AND u.removed_at IS NULL
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
    SELECT label AS state, sum(amount) AS runs FROM ingest.tally
    WHERE name = 'runs' AND ${ofModels(models, 'model')}
    GROUP BY label HAVING sum(amount) <> 0 ORDER BY label`.execute(db);
  return Object.fromEntries(rows.map(({ state, runs }) => [state, runs]));
}

export type ServiceFigures = Awaited<ReturnType<typeof serviceFigures>>;

/** Totals since the service was installed, and the present state: what monitoring reads every few seconds. */
export async function serviceFigures(db: Kysely<Database>) {
  const [overview, byName, published, tally] = await Promise.all([
    statusOverview(db, null),
    dueFigures(db),
    sql<{ model: string; at: number }>`
      SELECT m.name AS model, extract(epoch FROM p.published_at)::float8 AS at
      FROM ingest.model m, LATERAL (
        SELECT published_at FROM ingest.publication WHERE model = m.name
        ORDER BY publication_id DESC LIMIT 1) p`.execute(db),
    sql<{ name: string; label: string | null; amount: number }>`
      SELECT name, label, sum(amount) AS amount FROM ingest.tally WHERE name <> 'runs' GROUP BY name, label`.execute(
      db,
    ),
  ]);
  const labelsOf = (name: string) => tally.rows.filter((row) => row.name === name);
  const total = (name: string) => labelsOf(name)[0]?.amount ?? 0;
  const secondsOf = (outcome: string | null) =>
    labelsOf('load_seconds').find(({ label }) => label === outcome)?.amount ?? 0;
  return {
    ...overview,
    ...byName,
    published: published.rows,
    uploads: {
      created: total('uploads_created'),
      finished: total('uploads_finished'),
      bytes: total('upload_bytes'),
    },
    loads: labelsOf('loads').map(({ label, amount }) => ({
      outcome: label ?? '',
      count: amount,
      seconds: secondsOf(label),
    })),
    phases: labelsOf('phase_seconds').map(({ label, amount }) => ({ phase: label ?? '', seconds: amount })),
    loaded: { rows: total('loaded_rows'), bytes: total('loaded_bytes') },
    rejectedLines: total('rejected_lines'),
    denials: total('denials'),
  };
}

/** Adds up the rows of each counter, so that reading it costs the same after years. */
export async function foldTally(db: Kysely<Database>): Promise<void> {
  await sql`
    WITH folded AS (DELETE FROM ingest.tally RETURNING name, label, model, amount)
    INSERT INTO ingest.tally (name, label, model, amount)
    SELECT name, label, model, sum(amount) FROM folded GROUP BY name, label, model HAVING sum(amount) <> 0`.execute(
    db,
  );
}
