/**
 * What it costs an application to read `scores.<model>` instead of the partition behind it, as a model collects
 * revisions: the first look-up of a session, a look-up by key, many keys, `count(*)`, a scan of all rows, and the join
 * with a million customers.
 *
 *   node bench/look-up.ts [--revisions 1,3,24,60] [--rows 200000,1000000] [--customers 1000000]
 *     [--rounds 5] [--json FILE]
 *
 * View and partition are read in turn, so that a disturbance changes both; medians count. Revisions are published, and
 * detached when they are not read any more, by the statements of the product.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { partitionOf, STATISTICS_TARGET } from 'db-schema';
import pg from 'pg';
import { type ModelName, parseModelName } from 'wire';
import { detachUnread } from '../apps/ingest-api/src/load/retention.ts';
import { queryOf, transition, transitionOne } from '../apps/ingest-api/src/runs/transitions.ts';
import { startBenchDatabase } from './database.ts';
import { quietDisk } from './quiet-machine.ts';
import { type Measure, median, report, type Table } from './result.ts';

const { values } = parseArgs({
  options: {
    revisions: { type: 'string', default: '1,3,24,60' },
    rows: { type: 'string', default: '200000,1000000' },
    customers: { type: 'string', default: '1000000' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
});
const counts = values.revisions.split(',').map(Number);
const sizes = values.rows.split(',').map(Number);
const rounds = Number(values.rounds);
const customers = Number(values.customers);
const SESSIONS = 30;
const LOOK_UPS = 300;
const MANY_KEYS = 1_000;

/** What the view may cost. A warm look-up may take 0.3 ms more: a ratio would say little of a quarter of a millisecond. */
const TARGETS = { ratio: 1.15, firstRatio: 2 } as const;

interface Read {
  readonly name: string;
  /** `REL` is replaced by the view or by the partition. */
  readonly sql: string;
  readonly kind: 'first' | 'look-up' | 'whole';
  readonly isPrepared?: boolean;
  readonly keys?: number;
}

const READS: readonly Read[] = [
  { name: 'first look-up of a session', sql: 'SELECT score FROM REL WHERE pk = $1', kind: 'first' },
  { name: 'look-up, ad hoc', sql: 'SELECT score FROM REL WHERE pk = $1', kind: 'look-up' },
  {
    name: 'look-up, prepared',
    sql: 'SELECT score FROM REL WHERE pk = $1',
    kind: 'look-up',
    isPrepared: true,
  },
  {
    name: '1,000 keys at once',
    sql: 'SELECT score FROM REL WHERE pk = ANY ($1)',
    kind: 'look-up',
    keys: MANY_KEYS,
  },
  { name: 'count(*)', sql: 'SELECT count(*) FROM REL', kind: 'whole' },
  { name: 'all rows: avg(score)', sql: 'SELECT avg(score) FROM REL', kind: 'whole' },
  {
    name: 'join with the customers',
    sql: 'SELECT count(*), avg(s.score) FROM public.customers c JOIN REL s ON s.pk = c.id::text',
    kind: 'whole',
  },
];

const database = await startBenchDatabase();
const owner = database.client;
const [turn, sweeper] = [await connect(), await connect()];
const measures: Measure[] = [];
try {
  await owner.query(`
    CREATE TABLE public.customers AS SELECT n::bigint AS id, 'customer ' || n AS name FROM generate_series(1, ${customers}) n;
    ALTER TABLE public.customers ADD PRIMARY KEY (id)`);
  await owner.query('VACUUM ANALYZE public.customers');
  await owner.query(`SET default_statistics_target = ${STATISTICS_TARGET}`);
  const tables: Table[] = [];
  for (const size of sizes) tables.push(await measureSize(size));
  await report({ part: 'read', tables, measures, raw: measures }, values.json);
} finally {
  await Promise.all([turn.end(), sweeper.end()]);
  await database.stop();
}

async function measureSize(rows: number): Promise<Table> {
  const model = parseModelName(`bench_${rows}`);
  await owner.query(`INSERT INTO ingest.model (name) VALUES ('${model}')`);
  const cells: string[][] = [];
  let published = 0;
  let newest = 0;
  for (const count of counts) {
    for (; published < count; published += 1) newest = await publish(model, rows, published + 1);
    await quietDisk();
    for (const read of READS) {
      const [view = Number.NaN, partition = Number.NaN] = await measureRead(read, rows, [
        `scores.${model}`,
        partitionOf(model, newest),
      ]);
      const isLookUp = read.kind === 'look-up';
      measures.push({
        name: `read: ${read.name}, ${rows} rows, ${count} revisions: the view / the partition`,
        value: view / partition,
        better: 'lower',
        target: isLookUp ? null : read.kind === 'first' ? TARGETS.firstRatio : TARGETS.ratio,
      });
      const moreMs = view - partition;
      cells.push([
        String(count),
        read.name,
        partition.toFixed(2),
        view.toFixed(2),
        isLookUp ? `${moreMs < 0 ? '' : '+'}${moreMs.toFixed(2)} ms` : `${(view / partition).toFixed(2)}x`,
      ]);
    }
  }
  return {
    title: `Reads of ${rows.toLocaleString('en')} rows; ${customers.toLocaleString('en')} customers; warm; medians, in ms`,
    columns: ['revisions', 'read', 'the partition itself', 'scores.<model>', 'the view'],
    rows: cells,
  };
}

/** Publishes a revision as the loader does. @returns its id. */
async function publish(model: ModelName, rows: number, revision: number): Promise<number> {
  await owner.query('BEGIN');
  await transition(queryOf(owner), 'replace_published', 'r.model = $1', [model]);
  const inserted = await owner.query<{ id: number }>(
    `WITH k AS (INSERT INTO ingest.run VALUES ($1, $2))
     INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, row_count)
     VALUES ($1, $2, 1, 'queued', now(), 'bench', $3) RETURNING revision_id AS id`,
    [model, `run ${revision}`, rows],
  );
  const id = inserted.rows[0]?.id ?? 0;
  const partition = partitionOf(model, id);
  await owner.query(`CREATE TABLE ${partition} (score double precision NOT NULL,
    revision_id integer NOT NULL DEFAULT ${id} CHECK (revision_id = ${id}), pk text COLLATE "C" NOT NULL, attributes jsonb)`);
  await owner.query(
    `INSERT INTO ${partition} (score, pk) SELECT n % 1000, n FROM generate_series(1, ${rows}) n ORDER BY hashint4(n)`,
  );
  await owner.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk) WITH (fillfactor = 100)`);
  await owner.query(`ANALYZE ${partition}`);
  await owner.query('SELECT ingest.attach_revision($1)', [id]);
  await transitionOne(queryOf(owner), 'publish', id);
  await owner.query(
    `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, 'bench')`,
    [model, id],
  );
  await owner.query('COMMIT');
  await owner.query(`VACUUM ${partition}`); // the loader's COPY leaves nothing to vacuum
  await turn.query('BEGIN');
  await detachUnread(turn, sweeper, { keepPreviousMs: 0 }); // as an hour after the publication
  await turn.query('COMMIT');
  return id;
}

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  return client;
}

/** @returns the median of each relation, in ms. */
async function measureRead(read: Read, rows: number, relations: readonly string[]): Promise<number[]> {
  const keyOf = (n: number) => String(1 + ((n * 7919) % rows));
  const parameters = (n: number) => {
    if (read.kind === 'whole') return [];
    const { keys } = read;
    return [keys === undefined ? keyOf(n) : Array.from({ length: keys }, (_, i) => keyOf(n * keys + i))];
  };
  const times: number[][] = relations.map(() => []);
  const timed = async (client: pg.Client, at: number, n: number) => {
    const query = {
      text: read.sql.replace('REL', relations[at] ?? ''),
      values: parameters(n),
      ...(read.isPrepared === true ? { name: 'look-up' } : {}),
    };
    const startedMs = performance.now();
    await client.query(query);
    return performance.now() - startedMs;
  };
  const repeats = { first: SESSIONS, 'look-up': read.keys === undefined ? LOOK_UPS : 50, whole: rounds };
  const clients = read.kind === 'first' ? [] : await Promise.all(relations.map(connect));
  try {
    // The first of each session is a warm-up, except where it is what is measured.
    for (let n = read.kind === 'first' ? 1 : 0; n <= repeats[read.kind]; n += 1) {
      for (const at of relations.keys()) {
        const client = clients[at] ?? (await connect());
        const tookMs = await timed(client, at, n);
        if (n > 0) times[at]?.push(tookMs);
        if (read.kind === 'first') {
          await client.end();
          await delay(5); // its backend ends
        }
      }
    }
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
  return times.map(median);
}
