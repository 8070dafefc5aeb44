/**
 * What a look-up by key costs an application, at a number of revisions of the model: planning, execution, locks; as
 * an ad-hoc statement, prepared, and against reading the partition by its own name. And what a rollback costs.
 *
 *   node bench/look-up.ts [--revisions 24] [--rows 200000] [--look-ups 2000]
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { createModelRelations, migrateToLatest, openDatabase, parentOf, partitionOf } from 'db-schema';
import { startPostgres } from 'local-postgres';
import pg from 'pg';
import { type ModelName, parseModelName } from 'wire';
import { publishByHand } from '../apps/ingest-api/src/runs/actions.ts';

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

const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'ingest-bench-'));
const server = await startPostgres({
  dataDir: path.join(dir, 'postgres'),
  settings: { shared_buffers: '512MB' },
});
await migrateToLatest(server.superuserUrl);
const owner = new pg.Client({ connectionString: server.superuserUrl });
await owner.connect();
try {
  await owner.query(`INSERT INTO ingest.model (name) VALUES ('bench')`);
  await owner.query('BEGIN');
  await createModelRelations(owner, model);
  await owner.query('COMMIT');
  let newest = 0;
  for (let revision = 1; revision <= revisions; revision += 1) newest = await publish(owner, model, revision);
  console.log(`${revisions} revisions of ${rows} rows, ${lookUps} look-ups each, warm; medians, in ms`);
  console.log('| read | plan | execute | whole, as the client sees it | locks |\n|---|---|---|---|---|');
  await measure('scores.<model>, ad hoc', 'SELECT score FROM scores.bench WHERE pk = $1', false);
  await measure('scores.<model>, prepared', 'SELECT score FROM scores.bench WHERE pk = $1', true);
  await measure(
    'with run and published_at',
    'SELECT score, run, published_at FROM scores.bench WHERE pk = $1',
    false,
  );
  await measure('1,000 keys at once', 'SELECT score FROM scores.bench WHERE pk = ANY ($1)', false, 1_000);
  await measure(
    'the partition itself, ad hoc',
    `SELECT score FROM ${partitionOf(model, newest)} WHERE pk = $1`,
    false,
  );
  await measureRollback();
} finally {
  await owner.end();
  await server.stop();
  await rm(dir, { recursive: true, force: true });
}

/** As a load ends. */
async function publish(client: pg.Client, model: ModelName, revision: number): Promise<number> {
  await client.query('BEGIN');
  await client.query(`UPDATE ingest.run_revision SET state = 'superseded' WHERE state = 'published'`);
  const inserted = await client.query<{ id: number }>(
    `WITH k AS (INSERT INTO ingest.run VALUES ($1, $2))
     INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, published_at, row_count)
     VALUES ($1, $2, 1, 'published', now(), 'bench', now(), $3) RETURNING revision_id AS id`,
    [model, `run ${revision}`, rows],
  );
  const id = inserted.rows[0]?.id ?? 0;
  const partition = partitionOf(model, id);
  await client.query(`CREATE TABLE ${partition} (score double precision NOT NULL,
    revision_id integer NOT NULL DEFAULT ${id} CHECK (revision_id = ${id}), pk text COLLATE "C" NOT NULL, attributes jsonb)`);
  await client.query(
    `INSERT INTO ${partition} (score, pk) SELECT n % 1000, n FROM generate_series(1, ${rows}) n`,
  );
  await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk)`);
  await client.query(`ALTER TABLE ${parentOf(model)} ATTACH PARTITION ${partition} FOR VALUES IN (${id})`);
  await client.query(
    `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, 'bench')`,
    [model, id],
  );
  await client.query('COMMIT');
  await client.query(`VACUUM ANALYZE ${partition}`);
  return id;
}

async function measure(name: string, query: string, prepared: boolean, keys = 0): Promise<void> {
  const reader = new pg.Client({ connectionString: server.superuserUrl });
  await reader.connect();
  const keyOf = (n: number) => String(1 + ((n * 7919) % rows));
  const parameter = (n: number) =>
    keys === 0 ? keyOf(n) : Array.from({ length: keys }, (_, i) => keyOf(n * keys + i));
  const whole: number[] = [];
  for (let n = 0; n < lookUps / (keys === 0 ? 1 : 10); n += 1) {
    const startedMs = performance.now();
    await reader.query({ text: query, values: [parameter(n)], ...(prepared ? { name: 'look-up' } : {}) });
    whole.push(performance.now() - startedMs);
  }
  const plan: number[] = [];
  const execute: number[] = [];
  if (prepared) {
    await reader.query(`PREPARE explained(text) AS ${query}`);
    for (let n = 0; n < 6; n += 1) await reader.query(`EXECUTE explained('${keyOf(n)}')`);
  }
  for (let n = 0; n < 200; n += 1) {
    const text = prepared ? `EXECUTE explained('${keyOf(n)}')` : query;
    const explained = await reader.query({
      text: `EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ${text}`,
      values: prepared ? [] : [parameter(n)],
    });
    const [report] = explained.rows[0]['QUERY PLAN'] as [
      { 'Planning Time': number; 'Execution Time': number },
    ];
    plan.push(report['Planning Time']);
    execute.push(report['Execution Time']);
  }
  await reader.query('BEGIN');
  await reader.query({ text: query, values: [parameter(0)] });
  const locks = await reader.query(
    'SELECT count(*)::int AS locks FROM pg_locks WHERE pid = pg_backend_pid()',
  );
  await reader.query('COMMIT');
  await reader.end();
  console.log(
    `| ${name} | ${median(plan).toFixed(2)} | ${median(execute).toFixed(2)} | ${median(whole).toFixed(2)} | ${locks.rows[0].locks} |`,
  );
}

/** Publications by hand, back and forth between the two newest runs: what `PUT …/current` does. */
async function measureRollback(): Promise<void> {
  const { db } = openDatabase({
    databaseUrl: server.superuserUrl,
    role: 'ingest_api',
    applicationName: 'bench',
    maxConnections: 1,
    onIdleError: () => {},
  });
  const seconds: number[] = [];
  for (let turn = 0; turn < 101; turn += 1) {
    const run = `run ${turn % 2 === 0 ? revisions - 1 : revisions}`;
    const startedMs = performance.now();
    await publishByHand(db, { model, run, force: false, reason: 'bench', actor: 'bench' });
    seconds.push(performance.now() - startedMs);
  }
  await db.destroy();
  console.log(
    `rollback: median ${median(seconds).toFixed(1)} ms, worst ${Math.max(...seconds).toFixed(1)} ms of 101`,
  );
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
