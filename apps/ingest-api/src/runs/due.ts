import type { Database } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { ModelName, Status } from 'wire';
import { iso } from './summaries.ts';

/** The run that a model's contract expects next (`expectEvery`). */
export interface DueRun {
  readonly as_of: Date;
  /** When it is overdue. */
  readonly at: Date;
  readonly overdue: boolean;
}

/**
 * SQL: `as_of` and `at` of the run that the contract of the model `m` expects next; NULL without `expectEvery`.
 * It counts from what readers see, so that neither a backfilled older run nor a failed, held or withdrawn one
 * counts as the run that was expected; before the first publication it counts from the model's creation.
 * Months and days are those of the calendar in UTC, whatever the time zone of the session. The pattern keeps a
 * contract that was changed by hand from failing every query.
 */
export function dueOf(shownAsOf: RawBuilder<unknown>): RawBuilder<{ as_of: Date | null; at: Date | null }> {
  return sql`
    SELECT i.next AT TIME ZONE 'UTC' AS as_of, (i.next + i.grace) AT TIME ZONE 'UTC' AS at
    FROM (SELECT coalesce(${shownAsOf}, m.created_at) AT TIME ZONE 'UTC' + ${intervalIn('expectEvery')} AS next,
                 coalesce(${intervalIn('expectGrace')}, ${sql.lit(EXPECT_GRACE_DEFAULT)}::interval) AS grace) i`;
}

const EXPECT_GRACE_DEFAULT = '1 day';

function intervalIn(field: string): RawBuilder<unknown> {
  const text = sql`(m.contract->>${sql.lit(field)})`;
  return sql`CASE WHEN ${text} ~ '^[0-9]{1,3} (hour|day|week|month|year)s?$' THEN ${text}::interval END`;
}

interface Overdue {
  readonly overdueModels: number;
  readonly overdue: readonly OverdueRun[];
}

type OverdueRun = Omit<Status['overdue'][number], 'due' | 'shown'> & {
  readonly due: DueRun;
  readonly shown: { readonly run: string; readonly as_of: string; readonly publishedAt: string } | null;
};

const MOST_OVERDUE = 50;

/** The models whose next run is overdue; the one that is for the longest time is first. */
export async function listOverdue(db: Kysely<Database>, models: readonly string[] | null): Promise<Overdue> {
  const { rows } = await sql<{
    model: ModelName;
    as_of: Date;
    at: Date;
    shown: OverdueRun['shown'];
    newest: OverdueRun['newest'];
    total: number;
  }>`
    SELECT o.model, o.as_of, o.at, o.total,
           CASE WHEN o.run_key IS NOT NULL THEN json_build_object(
             'run', o.run_key, 'as_of', ${iso(sql.ref('o.shown_as_of'))}, 'publishedAt', ${iso(sql.ref('o.published_at'))}) END AS shown,
           CASE WHEN n.run_key IS NOT NULL THEN json_build_object(
             'run', n.run_key, 'state', n.state, 'as_of', ${iso(sql.ref('n.as_of'))}) END AS newest
    FROM (
      SELECT m.name AS model, d.as_of, d.at, p.run_key, p.as_of AS shown_as_of, p.published_at, count(*) OVER () AS total
      FROM ingest.model m
      LEFT JOIN ingest.run_revision p ON p.model = m.name AND p.state = 'published'
      CROSS JOIN LATERAL (${dueOf(sql.ref('p.as_of'))}) d
      WHERE d.at < now() AND (${models}::text[] IS NULL OR m.name = ANY (${models}::text[]))
      ORDER BY d.at, m.name LIMIT ${MOST_OVERDUE}) o
    LEFT JOIN LATERAL (
      SELECT n.run_key, n.state, n.as_of FROM ingest.run_revision n
      WHERE n.model = o.model AND n.as_of > coalesce(o.shown_as_of, '-infinity')
      ORDER BY n.as_of DESC, n.revision_id DESC LIMIT 1) n ON true
    ORDER BY o.at, o.model`.execute(db);
  return {
    overdueModels: rows[0]?.total ?? 0,
    overdue: rows.map(({ model, as_of, at, shown, newest }) => ({
      model,
      due: { as_of, at, overdue: true },
      shown,
      newest,
    })),
  };
}

/** A label of a metric has this many values at most: each one is a time series. */
const MOST_LABELS = 100;
/** No model has this name. */
const OTHERS = '_others';

/** What metrics say about single models and tokens. */
export async function dueFigures(db: Kysely<Database>) {
  const [due, needy, tokens] = await Promise.all([
    sql<{ model: string; at: number }>`
      SELECT m.name AS model, extract(epoch FROM d.at)::float8 AS at
      FROM ingest.model m
      LEFT JOIN ingest.run_revision p ON p.model = m.name AND p.state = 'published'
      CROSS JOIN LATERAL (${dueOf(sql.ref('p.as_of'))}) d
      WHERE d.at IS NOT NULL ORDER BY d.at LIMIT ${10 * MOST_LABELS}`.execute(db),
    sql<{ model: string; state: string; runs: number }>`
      SELECT CASE WHEN place <= ${MOST_LABELS} THEN model ELSE ${OTHERS} END AS model, state, sum(runs) AS runs
      FROM (
        SELECT t.model, t.state, t.runs, dense_rank() OVER (ORDER BY n.newest DESC, t.model) AS place
        FROM (
          SELECT model, label AS state, sum(amount) AS runs FROM ingest.tally
          WHERE name = 'runs' AND label IN ('failed', 'held') GROUP BY 1, 2 HAVING sum(amount) <> 0) t
        CROSS JOIN LATERAL (
          SELECT greatest(
            (SELECT max(revision_id) FROM ingest.newest_revision WHERE model = t.model AND state = 'failed'),
            (SELECT max(revision_id) FROM ingest.newest_revision WHERE model = t.model AND state = 'held')) AS newest) n) y
      GROUP BY 1, 2`.execute(db),
    // A successor of the same name (`token rotate`) counts for both. An expired one is named for as long as one that will expire.
    sql<{ token: string; at: number }>`
      SELECT name AS token, extract(epoch FROM max(expires_at))::float8 AS at FROM ingest.api_token
      WHERE revoked_at IS NULL GROUP BY name
      HAVING bool_and(expires_at IS NOT NULL)
        AND max(expires_at) BETWEEN now() - interval '14 days' AND now() + interval '14 days'
      ORDER BY 2 LIMIT ${MOST_LABELS}`.execute(db),
  ]);
  return { due: due.rows, needy: needy.rows, expiring: tokens.rows };
}
