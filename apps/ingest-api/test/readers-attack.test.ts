import { expect } from 'chai';
import { connect } from 'db-schema';
import pg from 'pg';
import { retireRevisions } from '../src/load/retention.ts';
import { pushRun, startSystem, type TestSystem, untilFinal } from './support/system.ts';

/** What a login that may only read scores can try, in a database whose PUBLIC has PostgreSQL's own defaults. */
describe('a reader who means harm', () => {
  let system: TestSystem;
  let operator: string;
  let reader: pg.Client;
  const login = `reader_${process.pid}`;
  const notices: string[] = [];

  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    system.startLoader();
    await system.query(`CREATE ROLE ${login} LOGIN PASSWORD 'x' IN ROLE score_reader`);
    const url = new URL(system.databaseUrl);
    url.username = login;
    url.password = 'x';
    reader = new pg.Client({ connectionString: url.href });
    reader.on('notice', ({ message }) => notices.push(message ?? ''));
    await reader.connect();
  });
  after(async () => {
    await reader.end();
    const [database] = await system.query<{ name: string }>('SELECT current_database() AS name');
    await system.query(`REVOKE ALL ON DATABASE ${database?.name} FROM ${login}`);
    await system.query(`DROP OWNED BY ${login}`);
    await system.query(`DROP ROLE ${login}`);
    await system.stop();
  });

  const push = async (model: string, run: string, keys: string) => {
    const content = keys
      .split(' ')
      .map((pk) => `{"pk":"${pk}","score":1}\n`)
      .join('');
    await pushRun(system, model, run, [{ name: 'a.jsonl', content }]);
    return (await untilFinal(system, model, run)).state;
  };
  const operate = (path: string, json: unknown) => system.request('PUT', path, { json, token: operator });

  /** Every key that the reader can make PostgreSQL show, by a cheap function that is called before the view's own filter. */
  async function leakedKeys(model: string): Promise<string[]> {
    notices.length = 0;
    await reader.query(`
      CREATE OR REPLACE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
      AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$`);
    for (const setting of ['enable_partition_pruning', 'enable_indexscan', 'enable_bitmapscan']) {
      await reader.query(`SET ${setting} = off`);
      await reader.query(`SELECT count(*) FROM scores."${model}" WHERE pg_temp.leak(pk)`);
      await reader.query(`SELECT count(*) FROM scores."${model}" WHERE pg_temp.leak(pk) AND pk > ''`);
    }
    await reader.query('RESET ALL');
    return [...new Set(notices)].sort();
  }

  it('finds no key of a revision that is held, loaded behind a later one, or withdrawn; and each once it is published', async () => {
    expect(await push('secret', '2026-10', 'october')).to.equal('published');
    expect(await push('secret', '2026-09', 'september')).to.equal('superseded');
    await operate('/v1/models/secret', { minRows: 2 });
    expect(await push('secret', '2026-11', 'november')).to.equal('held');
    expect(await leakedKeys('secret')).to.deep.equal(['october']);
    const published = await operate('/v1/models/secret/current', {
      run: '2026-11',
      force: true,
      reason: 'it is right',
    });
    expect(published.status).to.equal(200);
    expect(await leakedKeys('secret'))
      .to.include('november')
      .and.not.include('september');
    const { rows } = await reader.query('SELECT pk, run FROM scores.secret');
    expect(rows).to.deep.equal([{ pk: 'november', run: '2026-11' }]);
  });

  it('cannot hold back a declaration, a load, a publication, a sweep or an upload by any lock that it can take', async () => {
    expect(await push('locked', '2026-01', 'a b')).to.equal('published');
    // Every advisory lock of two keys that this product ever used, and what its run keys hash to; then the tables.
    await reader.query(`
      SELECT pg_advisory_lock(x'5c0e'::int, n), pg_advisory_lock(x'5c0f'::int, n), pg_advisory_lock_shared(x'5c0f'::int, n + 1000)
      FROM generate_series(1, 500) n`);
    await reader.query(`
      SELECT pg_advisory_lock(x'5c0e0005'::bigint), pg_advisory_lock(hashtextextended('createModelRelations', 0)),
             pg_advisory_lock(hashtextextended('run locked 2026-02', 0)), pg_advisory_lock(hashtextextended('token t', 0))`);
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await reader.query('SELECT count(*) FROM scores.locked');
    await reader.query('LOCK TABLE scores.locked IN ACCESS SHARE MODE');
    for (const lock of ['SHARE UPDATE EXCLUSIVE', 'ACCESS EXCLUSIVE']) {
      await reader.query('SAVEPOINT s');
      const denied = await reader.query(`LOCK TABLE scores.locked IN ${lock} MODE`).then(
        () => 'done',
        (error: pg.DatabaseError) => error.code,
      );
      expect(denied, lock).to.equal('42501');
      await reader.query('ROLLBACK TO SAVEPOINT s');
    }
    const startedMs = performance.now();
    expect(await push('locked', '2026-02', 'c')).to.equal('published');
    expect(await push('fresh', '2026-02', 'd')).to.equal('published');
    const back = await operate('/v1/models/locked/current', { run: '2026-01', reason: 'back' });
    expect(back.status).to.equal(200);
    const sweeper = await connect({
      databaseUrl: system.databaseUrl,
      role: 'ingest_loader',
      applicationName: 'test',
    });
    await retireRevisions(sweeper, 100);
    await sweeper.end();
    expect(performance.now() - startedMs).to.be.below(10_000);
    await reader.query('COMMIT');
    await reader.query('SELECT pg_advisory_unlock_all()');
  });

  it('cannot hold back a load by filling the queue of notifications, or by ringing without end', async () => {
    await reader.query(`
      SELECT pg_notify('ingest_queue', n::text), pg_notify('ingest_upload_lock', 'wanted ' || md5(n::text))
      FROM generate_series(1, 5000) n`);
    expect(await push('noisy', '2026-01', 'a')).to.equal('published');
  });

  it('cannot make a loader read its queue again and again, by ringing all the time', async () => {
    const sessions = async () => {
      const [row] = await system.query<{ sessions: string }>(
        'SELECT sessions FROM pg_stat_database WHERE datname = current_database()',
      );
      return Number(row?.sessions);
    };
    const before = await sessions();
    const endMs = performance.now() + 1_500;
    let rings = 0;
    for (; performance.now() < endMs; rings += 1)
      await reader.query(`SELECT pg_notify('ingest_queue', '${rings}')`);
    expect(rings).to.be.above(100);
    expect((await sessions()) - before).to.be.within(2, 25); // the loader reads its queue in a session of its own
  });

  it('cannot write, and cannot read anything else', async () => {
    for (const sql of [
      'SELECT * FROM run_data.secret',
      'SELECT * FROM ingest.run_revision',
      'SELECT ingest.attach_revision(1)',
      'CREATE VIEW scores.mine AS SELECT 1',
    ]) {
      const state = await reader.query(sql).then(
        () => 'done',
        (error: pg.DatabaseError) => error.code,
      );
      expect(state, sql).to.equal('42501');
    }
  });
});
