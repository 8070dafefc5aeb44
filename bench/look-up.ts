/**
 * What a look-up by key costs an application, at a number of revisions of the model: planning, execution and locks, as
 * an ad-hoc statement and prepared, and against a query of the partition by its own name.
 *
 *   node bench/look-up.ts [--revisions 24] [--rows 200000] [--look-ups 2000]
 */
import { parseArgs } from 'node:util';
import { createModelRelations, parentOf, partitionOf } from 'db-schema';
import pg from 'pg';
import { parseModelName } from 'wire';
import { startBenchDatabase } from './database.ts';
import { formatTable, median } from './result.ts';

const { values } = parseArgs({
  options: {
    revisions: { type: 'string', default: '24' },
    rows: { type: 'string', default: '200000' },
    'look-ups': { type: 'string', default: '2000' },
  },
});
const revisions = Number(values.revisions);
const rows = Number(values.rows);
const lookUps = Number(values['look-ups']);
const model = parseModelName('bench');
const MANY_KEYS = 1_000;
const EXPLAINED = 200;

const database = await startBenchDatabase();
const owner = database.client;
try {
  await owner.query(`INSERT INTO ingest.model (name) VALUES ('bench')`);
  await owner.query('BEGIN');
  await createModelRelations(owner, model);
  await owner.query('COMMIT');
  let newest = 0;
  for (let revision = 1; revision <= revisions; revision += 1) newest = await publish(revision);

  const oneKey = 'SELECT score FROM scores.bench WHERE pk = $1';
  const runToo = 'SELECT score, run, published_at FROM scores.bench WHERE pk = $1';
  const partition = `SELECT score FROM ${partitionOf(model, newest)} WHERE pk = $1`;
  const manyKeys = 'SELECT score FROM scores.bench WHERE pk = ANY ($1)';
  const table = {
    title: `${revisions} revisions of ${rows} rows, ${lookUps} look-ups each, warm; medians, in ms`,
    columns: ['read', 'plan', 'execute', 'whole, as the client sees it', 'locks'],
    rows: [
      ['scores.<model>, ad hoc', ...(await measure(oneKey))],
      ['scores.<model>, prepared', ...(await measure(oneKey, { isPrepared: true }))],
      ['with run and published_at', ...(await measure(runToo))],
      ['1,000 keys at once', ...(await measure(manyKeys, { keys: MANY_KEYS }))],
      ['the partition itself, ad hoc', ...(await measure(partition))],
    ],
  };
  console.log(formatTable(table));
} finally {
  await database.stop();
}

/** Publishes a revision as the loader does. @returns its id. */
async function publish(revision: number): Promise<number> {
  await owner.query('BEGIN');
  const inserted = await owner.query<{ id: number }>(
    `WITH k AS (INSERT INTO ingest.run VALUES ($1, $2))
     INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, published_at, row_count)
     VALUES ($1, $2, 1, $4, now(), 'bench', now(), $3) RETURNING revision_id AS id`,
    [model, `run ${revision}`, rows, revision === revisions ? 'published' : 'superseded'],
  );
  const id = inserted.rows[0]?.id ?? 0;
  const partition = partitionOf(model, id);
  await owner.query(`CREATE TABLE ${partition} (score double precision NOT NULL,
    revision_id integer NOT NULL DEFAULT ${id} CHECK (revision_id = ${id}), pk text COLLATE "C" NOT NULL, attributes jsonb)`);
  await owner.query(
    `INSERT INTO ${partition} (score, pk) SELECT n % 1000, n FROM generate_series(1, ${rows}) n`,
  );
  await owner.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk)`);
  await owner.query(`ALTER TABLE ${parentOf(model)} ATTACH PARTITION ${partition} FOR VALUES IN (${id})`);
  await owner.query(
    `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, 'bench')`,
    [model, id],
  );
  await owner.query('COMMIT');
  await owner.query(`VACUUM ANALYZE ${partition}`);
  return id;
}

/** @returns the columns of the table: plan, execute, whole, locks. `keys` of 0: the parameter is one key, not an array. */
async function measure(query: string, { isPrepared = false, keys = 0 } = {}): Promise<string[]> {
  const reader = new pg.Client({ connectionString: database.url });
  await reader.connect();
  const keyOf = (n: number) => String(1 + ((n * 7919) % rows));
  const parameter = (n: number) =>
    keys === 0 ? keyOf(n) : Array.from({ length: keys }, (_, i) => keyOf(n * keys + i));

  const whole: number[] = [];
  for (let n = 0; n < lookUps / (keys === 0 ? 1 : 10); n += 1) {
    const startedMs = performance.now();
    await reader.query({ text: query, values: [parameter(n)], ...(isPrepared ? { name: 'look-up' } : {}) });
    whole.push(performance.now() - startedMs);
  }

  const plan: number[] = [];
  const execute: number[] = [];
  if (isPrepared) {
    await reader.query(`PREPARE explained(text) AS ${query}`);
    // PostgreSQL keeps a generic plan after five executions.
    for (let n = 0; n < 6; n += 1) await reader.query(`EXECUTE explained('${keyOf(n)}')`);
  }
  for (let n = 0; n < EXPLAINED; n += 1) {
    const explained = await reader.query({
      text: `EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ${isPrepared ? `EXECUTE explained('${keyOf(n)}')` : query}`,
      values: isPrepared ? [] : [parameter(n)],
    });
    const [report] = explained.rows[0]['QUERY PLAN'] as [
      { 'Planning Time': number; 'Execution Time': number },
    ];
    plan.push(report['Planning Time']);
    execute.push(report['Execution Time']);
  }

  await reader.query('BEGIN');
  await reader.query({ text: query, values: [parameter(0)] });
  const { rows: locks } = await reader.query<{ count: number }>(
    'SELECT count(*)::int FROM pg_locks WHERE pid = pg_backend_pid()',
  );
  await reader.query('COMMIT');
  await reader.end();
  return [...[plan, execute, whole].map((list) => median(list).toFixed(2)), String(locks[0]?.count)];
}
