import type { TestSystem } from '../support/system.ts';

const PRODUCTS = ['broker', 'cards', 'deposits', 'insurance', 'loans', 'mortgage', 'retail', 'wealth'];
const TARGETS = [
  'churn',
  'credit_risk',
  'cross_sell_2',
  'cross_sell_10',
  'fraud',
  'ltv',
  'mail_response',
  'upsell',
];
const MONTHS = 24;
/** 80 names. */
const MODELS = [
  ...PRODUCTS.flatMap((product) => TARGETS.map((target) => `${product}_${target}`)),
  ...Array.from({ length: 16 }, (_, index) => `next_best_offer_${index + 1}`),
];

/** The run key of a month, in UTC. */
export function monthsAgo(count: number): string {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - count, 1)).toISOString().slice(0, 7);
}

/**
 * Two years of monthly runs of 80 models, as records without rows: the page shows no row. The runs of the last two months of the
 * models in `pushed` are left out.
 */
export async function recordHistory(system: TestSystem, pushed: readonly string[] = []): Promise<void> {
  await system.query(
    `
    INSERT INTO ingest.model (name, created_at) SELECT name, now() - interval '25 months' FROM unnest($1::text[]) name`,
    [MODELS],
  );
  await system.query(
    `
    CREATE TABLE sample AS
    SELECT name AS model, to_char(day, 'YYYY-MM') AS run_key, day, age, n,
           (20000 * (1 + n * n % 97) * (1 + 0.15 * sin(n + age / 4.0) - age * 0.008))::bigint AS rows,
           40 + n % 30 + 4 * sin(n + age / 3.0) AS mean
    FROM unnest($1::text[]) WITH ORDINALITY AS m(name, n), generate_series(0, $2::int - 1) age,
         LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') - age * interval '1 month' AS day) d
    WHERE (n % 9 <> 4 OR age < 5 + n % 7)          -- younger models
      AND NOT (n % 23 = 7 AND age = 3)             -- a gap
      AND NOT (n % 31 = 11 AND age < 2)            -- overdue
      AND NOT (age < 2 AND name = ANY ($3::text[]))`,
    [MODELS, MONTHS, pushed],
  );
  await system.query(`INSERT INTO ingest.run (model, run_key) SELECT model, run_key FROM sample`);
  await system.query(`
    INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, as_of_from, manifest_sha256, file_count, total_bytes, total_lines,
      source, declared_by, declared_at, queued_at, loaded_at, published_at, row_count, profile, gates)
    SELECT model, run_key, 1,
           CASE WHEN age = min(age) OVER (PARTITION BY model) THEN 'published' WHEN n % 17 = 5 AND age = 6 THEN 'cancelled' ELSE 'superseded' END,
           day AT TIME ZONE 'UTC', 'run_key', sha256((model || run_key)::bytea), 12, rows * 37, rows,
           jsonb_build_object('host', 'airflow-worker-' || n % 4, 'airflow', jsonb_build_object('dag_id', 'score_' || model)), 'airflow',
           at, at + interval '4 minutes', at + interval '6 minutes', at + interval '6 minutes', rows,
           jsonb_build_object('rows', rows, 'min', mean - 38, 'max', mean + 41, 'mean', mean, 'stddev', 12.4, 'bytes', rows * 37, 'seconds', rows / 900000.0,
             'deciles', (SELECT jsonb_agg(mean + 12.4 * z ORDER BY z) FROM unnest('{-1.28,-0.84,-0.52,-0.25,0,0.25,0.52,0.84,1.28}'::float8[]) z),
             'binShares', '[0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1]'::jsonb), '[]'
    FROM sample, LATERAL (SELECT day AT TIME ZONE 'UTC' + interval '2 days' + n * interval '7 minutes' AS at) t
    ORDER BY at`);
  await system.query(`
    INSERT INTO ingest.publication (model, revision_id, published_by, published_at)
    SELECT model, revision_id, declared_by, published_at FROM ingest.run_revision WHERE declared_by = 'airflow' AND state <> 'cancelled' ORDER BY published_at`);
  await system.query('DROP TABLE sample');
}
