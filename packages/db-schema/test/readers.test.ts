import { expect } from 'chai';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { type ModelName, parseModelName } from 'wire';
import { migrateToLatest, parentOf, partitionOf } from '../src/index.ts';

const PUBLICATIONS = 60;
const ROWS = 50;

describe('readers of scores.<model>', () => {
  let database: TestDatabase;
  const clients: pg.Client[] = [];
  const model = parseModelName('churn');

  async function connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    clients.push(client);
    return client;
  }

  before(async () => {
    database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    const owner = await connect();
    await owner.query(`INSERT INTO ingest.model (name) VALUES ('churn')`);
    await publish(owner, model, 1);
  });
  after(async () => {
    await Promise.all(clients.map((client) => client.end()));
    await database.drop();
  });

  // With a view that follows a bare pointer a reader sees an empty model from time to time (docs/decisions/0003).
  it('see exactly one whole run at every moment, while one run after the other is published', async () => {
    const owner = await connect();
    let publishing = true;
    const read = async (asTransactions: boolean, query: string) => {
      const client = await connect();
      const wrong: unknown[] = [];
      let reads = 0;
      while (publishing) {
        if (asTransactions) await client.query('BEGIN');
        for (let i = 0; i < 10; i += 1) {
          const { rows } = await client.query(query);
          reads += 1;
          if (rows.length !== 1 || rows[0].rows !== ROWS || rows[0].runs !== 1) wrong.push(rows);
        }
        if (asTransactions) await client.query('COMMIT');
      }
      return { reads, wrong };
    };
    const whole = 'SELECT count(*)::int AS rows, count(DISTINCT run)::int AS runs FROM scores.churn';
    const readers = [read(false, whole), read(true, whole)];
    try {
      for (let revision = 2; revision <= PUBLICATIONS; revision += 1) await publish(owner, model, revision);
    } finally {
      publishing = false;
    }
    for (const { reads, wrong } of await Promise.all(readers)) {
      expect(reads).to.be.greaterThan(PUBLICATIONS);
      expect(wrong).to.deep.equal([]);
    }
    const { rows } = await owner.query('SELECT DISTINCT run FROM scores.churn');
    expect(rows).to.deep.equal([{ run: `run ${PUBLICATIONS}` }]);
  });

  it('keep the run that they began with inside a repeatable read transaction', async () => {
    const reader = await connect();
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const before = (await reader.query('SELECT DISTINCT run FROM scores.churn')).rows;
    await publish(await connect(), model, PUBLICATIONS + 1);
    expect((await reader.query('SELECT DISTINCT run FROM scores.churn')).rows).to.deep.equal(before);
    await reader.query('COMMIT');
    expect((await reader.query('SELECT DISTINCT run FROM scores.churn')).rows).to.deep.equal([
      { run: `run ${PUBLICATIONS + 1}` },
    ]);
  });

  it('of the history do not see a run that was published after their snapshot, attached or detached, as of scores.<model>', async () => {
    const owner = await connect();
    const past = parseModelName('past');
    await owner.query(`INSERT INTO ingest.model (name) VALUES ('past')`);
    await publish(owner, past, 1);
    const [first, later] = [await connect(), await connect()];
    const runs = async (client: pg.Client, view: string) =>
      (await client.query(`SELECT run FROM ${view}.past GROUP BY run ORDER BY run`)).rows.map(
        ({ run }) => run,
      );
    for (const client of [first, later]) {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
      await client.query('SELECT FROM scores_info.models'); // takes the snapshot
    }
    const id = await publish(owner, past, 2, 'COPY FREEZE');
    expect(await runs(first, 'scores_history')).to.deep.equal(['run 1']);
    expect(await runs(first, 'scores')).to.deep.equal(['run 1']);
    await first.query('COMMIT');
    expect(await runs(first, 'scores_history')).to.deep.equal(['run 1', 'run 2']);
    await owner.query(`ALTER TABLE ${parentOf(past)} DETACH PARTITION ${partitionOf(past, id)}`);
    await owner.query(`UPDATE ingest.run_revision SET published_at = now() WHERE revision_id = ${id}`);
    await owner.query(`SELECT ingest.list_history('past')`);
    expect(await runs(later, 'scores_history'), 'its table is listed').to.deep.equal(['run 1']);
    await later.query('COMMIT');
    expect(await runs(later, 'scores_history')).to.deep.equal(['run 1', 'run 2']);
  });

  it('with an old snapshot get a run of that snapshot, or an error that says to begin again, and never an empty model', async () => {
    const owner = await connect();
    const late = parseModelName('late');
    await owner.query(`INSERT INTO ingest.model (name) VALUES ('late')`);
    const published = [];
    for (const revision of [1, 2]) published.push(await publish(owner, late, revision));
    const snapshot = async () => {
      const client = await connect();
      await client.query('SET ROLE score_reader');
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
      await client.query('SELECT 1 FROM scores.churn LIMIT 1'); // takes the snapshot, and reads another model
      return client;
    };
    const [whole, older] = [await snapshot(), await snapshot()];
    for (const revision of [3, 4, 5]) published.push(await publish(owner, late, revision));
    const count = (client: pg.Client) =>
      client.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.late').then(
        ({ rows }) => rows[0],
        (error: pg.DatabaseError) => `${error.code} ${error.message}`,
      );
    const drop = async (id: number | undefined) => {
      await owner.query(
        `ALTER TABLE ${parentOf(late)} DETACH PARTITION ${partitionOf(late, id ?? 0)} CONCURRENTLY`,
      );
      await owner.query(`DROP TABLE ${partitionOf(late, id ?? 0)}`);
    };
    await drop(published[1]);
    expect(await count(whole), 'the run before is there').to.deep.equal({ rows: ROWS, run: 'run 1' });
    await whole.query('COMMIT');
    await drop(published[0]);
    expect(await count(older), 'nothing it knows is there').to.match(/^40001 The runs of model "late"/);
    await older.query('ROLLBACK');
    expect(await count(older)).to.deep.equal({ rows: ROWS, run: 'run 5' });
  });

  it('find each run by one row, however many runs are published, attached or not', async () => {
    const owner = await connect();
    // Before 18 the statistics of these small tables are known, and reading one is cheaper than to search it.
    await owner.query('SET enable_seqscan = off');
    const { rows } = await owner.query(
      'EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) SELECT score FROM scores.churn WHERE pk = $1',
      ['7'],
    );
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    const reads = (what: string) => plan.match(new RegExp(what, 'g'))?.length ?? 0;
    // One partition by its first row, one by the key: the plan has as many of both as are attached, and runs one.
    expect(reads('Tid Scan on .* \\(actual'), plan).to.equal(1);
    expect(reads('Index Scan using "churn\\$\\d+_pkey" on .* \\(actual'), plan).to.equal(1);
    expect(reads('Seq Scan on "churn'), plan).to.equal(0);
  });

  it('see a model that was never published as empty from its first moment, and can be granted it alone', async () => {
    const owner = await connect();
    await owner.query(`INSERT INTO ingest.model (name) VALUES ('unpublished')`);
    const login = `app_${process.pid}`;
    await owner.query(`CREATE ROLE ${login}`);
    await owner.query(
      `GRANT USAGE ON SCHEMA scores TO ${login}; GRANT SELECT ON scores.unpublished TO ${login}`,
    );
    const reader = await connect();
    await reader.query(`SET ROLE ${login}`);
    const lines = async () => (await reader.query('SELECT model, run, rows FROM scores_info.models')).rows;
    expect((await reader.query('SELECT * FROM scores.unpublished')).rows).to.deep.equal([]);
    expect(await lines()).to.deep.equal([{ model: 'unpublished', run: null, rows: null }]);
    await publish(owner, parseModelName('unpublished'), 1);
    await migrateToLatest(database.url);
    expect((await reader.query('SELECT * FROM scores.unpublished')).rows).to.have.length(ROWS);
    expect(await lines()).to.deep.equal([{ model: 'unpublished', run: 'run 1', rows: null }]);
    const others = ['scores.churn', 'scores_history.unpublished', 'ingest.published_run'];
    for (const other of others)
      expect(await reader.query(`SELECT FROM ${other}`).catch(({ code }) => code), other).to.equal('42501');
    await reader.query('RESET ROLE');
    await owner.query(`DROP OWNED BY ${login}; DROP ROLE ${login}`);
  });

  it('find what each view and column is in its comment', async () => {
    const { rows } = await (await connect()).query(
      `SELECT attrelid::regclass || '.' || attname AS it FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
       WHERE relkind = 'v' AND relnamespace::regnamespace::text ~ '^scores' AND attnum > 0
         AND (col_description(attrelid, attnum) IS NULL OR obj_description(attrelid, 'pg_class') IS NULL)`,
    );
    expect(rows).to.deep.equal([]);
  });

  it('join a text key of any collation: an explicit COLLATE on either side uses the index of that side', async () => {
    const owner = await connect();
    // Can the index be used? Before 18 a hash join of these small tables is cheaper.
    await owner.query('SET enable_hashjoin = off; SET enable_mergejoin = off');
    await owner.query(`CREATE TABLE public.customers (plain text, icu text COLLATE "und-x-icu" PRIMARY KEY)`);
    await owner.query(
      `INSERT INTO public.customers SELECT n, n FROM generate_series(1, 2000) n; ANALYZE public.customers`,
    );
    const joined = async (condition: string, where = '') => {
      const query = `FROM public.customers c JOIN scores.churn s ON ${condition} ${where}`;
      const { rows } = await owner.query(`EXPLAIN SELECT s.score ${query}`);
      const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
      return { plan, count: (await owner.query(`SELECT ${query}`)).rows.length };
    };
    expect((await joined('s.pk = c.plain')).count).to.equal(ROWS);
    expect(await joined('s.pk = c.icu').catch(({ code }) => code)).to.equal('42P22');
    const byScores = await joined('s.pk = c.icu COLLATE "C"', `WHERE c.icu = '7'`);
    expect(byScores.count).to.equal(1);
    expect(byScores.plan).to.contain('customers_pkey');
    const byCustomers = await joined('s.pk COLLATE "und-x-icu" = c.icu', `WHERE s.pk = '7'`);
    expect(byCustomers.count).to.equal(1);
    expect(byCustomers.plan).to.contain('customers_pkey');
    await owner.query('DROP TABLE public.customers');
  });

  it('see the views as score_reader, and nothing behind them', async () => {
    const reader = await connect();
    await reader.query('SET ROLE score_reader');
    expect((await reader.query('SELECT count(*)::int AS rows FROM scores.churn')).rows).to.deep.equal([
      { rows: ROWS },
    ]);
    for (const table of [parentOf(model), 'ingest.run_revision', 'ingest.api_token']) {
      const refused = await reader.query(`SELECT FROM ${table}`).then(
        () => 'allowed',
        (error: { code: string }) => error.code,
      );
      expect(refused, table).to.equal('42501');
    }
  });
});

/** The statements of a load, as the test's superuser. */
async function publish(
  client: pg.Client,
  model: ModelName,
  revision: number,
  how: 'INSERT' | 'COPY FREEZE' = 'INSERT',
): Promise<number> {
  await client.query('BEGIN');
  const { rows } = await client.query<{ id: number }>(
    `WITH run AS (INSERT INTO ingest.run VALUES ($1, $2))
     INSERT INTO ingest.run_revision (model, run_key, revision, as_of, declared_by)
     VALUES ($1, $2, 1, now(), 'test') RETURNING revision_id AS id`,
    [model, `run ${revision}`],
  );
  const id = rows[0]?.id ?? 0;
  const partition = partitionOf(model, id);
  await client.query(`CREATE TABLE ${partition} (score double precision NOT NULL, revision_id integer NOT NULL DEFAULT ${id}
    CHECK (revision_id = ${id}), pk text COLLATE "C" PRIMARY KEY, attributes jsonb)`);
  const rowsOf = `SELECT n, n FROM generate_series(1, ${ROWS}) n`;
  if (how === 'INSERT') await client.query(`INSERT INTO ${partition} (score, pk) ${rowsOf}`);
  else
    await client.query(
      `COPY ${partition} (score, pk) FROM PROGRAM 'seq ${ROWS} | sed "s/.*/&,&/"' (FORMAT csv, FREEZE)`,
    );
  await client.query('SELECT ingest.attach_revision($1)', [id]);
  await client.query(
    `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, 'test')`,
    [model, id],
  );
  await client.query('COMMIT');
  return id;
}
