/**
 * What many kept revisions cost PostgreSQL: the size of its catalogs, the locks and the time of a reader, and the time of
 * the sweep of a loader.
 *
 *   node bench/partitions.ts [--models 60] [--revisions 300] [--rows 1000] [--json FILE]
 *
 * Of each model the newest revision is attached and the others are not, as a sweep leaves them. All rows are small: the
 * figures do not depend on their number.
 */
import { parseArgs } from 'node:util';
import { partitionOf, STATISTICS_TARGET } from 'db-schema';
import pg from 'pg';
import { parseModelName } from 'wire';
import { detachUnread, retireRevisions } from '../apps/ingest-api/src/load/retention.ts';
import { startBenchDatabase } from './database.ts';
import { median, report } from './result.ts';

const { values } = parseArgs({
  options: {
    models: { type: 'string', default: '60' },
    revisions: { type: 'string', default: '300' },
    rows: { type: 'string', default: '100' },
    json: { type: 'string' },
  },
});
const [models, revisions, rows] = [values.models, values.revisions, values.rows].map(Number) as [
  number,
  number,
  number,
];
const names = Array.from({ length: models }, (_, n) => parseModelName(`model_${n + 1}`));
const SESSIONS = 20;

// A small table needs none, and may be measured on another server.
const settings = models * revisions > 1_000 ? { max_locks_per_transaction: '256' } : {};
const database = await startBenchDatabase(settings);
try {
  const { client } = database;
  await client.query(`SET default_statistics_target = ${STATISTICS_TARGET}`);
  const startedMs = performance.now();
  for (const model of names) {
    await client.query('INSERT INTO ingest.model (name, contract) VALUES ($1, $2)', [
      model,
      JSON.stringify({ keepRevisions: revisions }),
    ]);
    await client.query('BEGIN');
    const inserted = await client.query<{ id: number }>(
      `WITH k AS (INSERT INTO ingest.run SELECT $1, 'run ' || n FROM generate_series(1, ${revisions}) n)
       INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, row_count, loaded_at, published_at)
       SELECT $1, 'run ' || n, 1, CASE WHEN n = ${revisions} THEN 'published' ELSE 'superseded' END, now(), 'bench', ${rows}, now(), now()
       FROM generate_series(1, ${revisions}) n ORDER BY n RETURNING revision_id AS id`,
      [model],
    );
    for (const { id } of inserted.rows)
      await client.query(`
        CREATE TABLE ${partitionOf(model, id)} (score double precision NOT NULL,
          revision_id integer NOT NULL DEFAULT ${id} CHECK (revision_id = ${id}), pk text COLLATE "C" NOT NULL, attributes jsonb);
        INSERT INTO ${partitionOf(model, id)} (score, pk) SELECT n, n FROM generate_series(1, ${rows}) n;
        ALTER TABLE ${partitionOf(model, id)} ADD PRIMARY KEY (pk) WITH (fillfactor = 100);
        ANALYZE ${partitionOf(model, id)}`);
    const newest = inserted.rows.at(-1)?.id ?? 0;
    await client.query('SELECT ingest.attach_revision($1)', [newest]);
    await client.query(
      `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, 'bench')`,
      [model, newest],
    );
    await client.query('COMMIT');
  }
  await client.query('VACUUM ANALYZE');
  console.log(
    `  ${models * revisions} revisions written in ${((performance.now() - startedMs) / 1000).toFixed(0)} s`,
  );
  const figures: [string, string][] = [];
  const [catalog] = (
    await client.query<{ relations: number; statistics: number; bytes: string }>(
      `SELECT (SELECT count(*)::int FROM pg_class) AS relations, (SELECT count(*)::int FROM pg_statistic) AS statistics,
              pg_size_pretty((SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r')) AS bytes`,
    )
  ).rows;
  figures.push(['tables, indexes and other relations (pg_class)', String(catalog?.relations)]);
  figures.push(['rows of statistics (pg_statistic)', String(catalog?.statistics)]);
  figures.push(['size of all catalogs', String(catalog?.bytes)]);
  const one = await readers(`SELECT score FROM scores.${names[0]} WHERE pk = '7'`);
  figures.push(['first look-up of a session, ms', one.ms.toFixed(1)], ['its locks', String(one.locks)]);
  const all = await readers(
    names.map((name) => `SELECT score FROM scores.${name} WHERE pk = '7'`).join(' UNION ALL '),
  );
  figures.push(
    [`one statement over all ${models} models, ms`, all.ms.toFixed(0)],
    ['its locks', String(all.locks)],
  );
  const [turn, sweeper] = [await connect(), await connect()];
  await turn.query('BEGIN');
  const sweptMs = performance.now();
  await retireRevisions(sweeper, 10_000);
  await detachUnread(turn, sweeper, { timeoutMs: 10_000 });
  figures.push(['sweep of a loader with nothing to drop, ms', (performance.now() - sweptMs).toFixed(0)]);
  await Promise.all([turn.end(), sweeper.end()]);
  const vacuumedMs = performance.now();
  await client.query('VACUUM');
  figures.push([
    'VACUUM of the database with nothing to do, s',
    ((performance.now() - vacuumedMs) / 1000).toFixed(1),
  ]);
  await report(
    {
      part: 'partitions',
      tables: [
        {
          title: `${models} models with ${revisions} kept revisions each`,
          columns: ['what', 'measured'],
          rows: figures,
        },
      ],
      measures: [],
      raw: figures,
    },
    values.json,
  );
} finally {
  await database.stop();
}

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  return client;
}

/** The median of the first statement of a session, and the locks that its transaction holds. */
async function readers(sql: string): Promise<{ readonly ms: number; readonly locks: number }> {
  const times: number[] = [];
  let locks = 0;
  for (let session = 0; session < SESSIONS; session += 1) {
    const reader = await connect();
    await reader.query('BEGIN');
    const startedMs = performance.now();
    await reader.query(sql);
    times.push(performance.now() - startedMs);
    const held = await reader.query<{ locks: number }>(
      `SELECT count(*)::int AS locks FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
         AND relation <> ALL (ARRAY(SELECT oid FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace))`,
    );
    locks = held.rows[0]?.locks ?? 0;
    await reader.end();
  }
  return { ms: median(times), locks };
}
