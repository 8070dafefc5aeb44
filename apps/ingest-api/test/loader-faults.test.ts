import { mkdir, rename, rm } from 'node:fs/promises';
import { expect } from 'chai';
import pg from 'pg';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  type RunAnswer,
  scoreLines,
  startSystem,
  storedFile,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

describe('the loader', () => {
  let system: TestSystem;
  beforeEach(async () => {
    system = await startSystem();
  });
  afterEach(() => system.stop());

  const file = (rows: number) => [{ name: 'a.jsonl', content: scoreLines(rows) }];

  function until(run: string, isDone: (answer: RunAnswer) => boolean): Promise<RunAnswer> {
    return eventually(() => getRun(system, 'churn', run), isDone);
  }

  /** Keeps loads of the model from ending: somebody holds the lock that ATTACH needs. */
  async function holdLoads(): Promise<{ letGo(): Promise<void> }> {
    await pushRun(system, 'churn', 'before', file(10));
    const loader = system.startLoader();
    await untilFinal(system, 'churn', 'before');
    await loader.stop();
    const holder = new pg.Client({ connectionString: system.databaseUrl });
    await holder.connect();
    await holder.query('BEGIN; LOCK TABLE run_data.churn IN SHARE UPDATE EXCLUSIVE MODE');
    return { letGo: () => holder.end() };
  }

  it('tries again when the disk fails it, says why, and loses nothing', async () => {
    const [declared] = (await pushRun(system, 'churn', 'r', file(100))).missing.files;
    const stored = storedFile(system, declared?.uploadUrl);
    // A fault of the disk, which says nothing about the bytes.
    await rename(stored, `${stored}.away`);
    await mkdir(stored);
    const loader = system.startLoader();
    const waiting = await until('r', ({ load }) => load?.lastError?.includes('EISDIR') === true);
    expect(waiting.state).to.equal('queued');
    await loader.stop();
    await rm(stored, { recursive: true });
    await rename(`${stored}.away`, stored);
    system.startLoader();
    expect((await untilFinal(system, 'churn', 'r')).state).to.equal('published');
  });

  it('loads again when its connection is cut in mid COPY, and publishes once', async () => {
    await pushRun(system, 'churn', 'r', file(600_000));
    system.startLoader();
    const backend = await eventually(
      () => system.query<{ pid: number }>(`SELECT pid FROM pg_stat_progress_copy`),
      (rows) => rows.length === 1,
    );
    await system.query('SELECT pg_terminate_backend($1)', [backend[0]?.pid]);
    const run = await untilFinal(system, 'churn', 'r');
    expect(run).to.include({ state: 'published', rows: 600_000 });
    const attempts = await system.query('SELECT outcome FROM ingest.load_attempt ORDER BY attempt');
    expect(attempts).to.deep.equal([{ outcome: 'retry' }, { outcome: 'published' }]);
    expect(await system.query('SELECT FROM ingest.publication')).to.have.length(1);
  });

  it('fails a run whose rows PostgreSQL refuses, as it would again, and continues with others', async () => {
    // Somebody has given every new partition a constraint.
    await system.query(`
      CREATE FUNCTION no_high_scores() RETURNS event_trigger LANGUAGE plpgsql AS $$
      DECLARE made record;
      BEGIN
        FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'run_data.%$%' LOOP
          EXECUTE format('ALTER TABLE %s ADD CONSTRAINT no_high_scores CHECK (score < 500)', made.object_identity);
        END LOOP;
      END $$`);
    await system.query(
      `CREATE EVENT TRIGGER no_high_scores ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION no_high_scores()`,
    );
    await pushRun(system, 'churn', 'high', file(600));
    await pushRun(system, 'churn', 'low', file(400));
    system.startLoader();
    const high = await untilFinal(system, 'churn', 'high');
    expect([high.state, high.error?.code, high.load?.outcome, high.load?.attempt]).to.deep.equal([
      'failed',
      'refused_by_database',
      'failed',
      2, // once more, as a crash near by may say such things too
    ]);
    expect(high.error?.detail)
      .to.contain('the constraint "no_high_scores" of the table')
      .and.contain('23514');
    expect((await untilFinal(system, 'churn', 'low')).state).to.equal('published');
  });

  it('shares the queue with other loaders: each run is loaded once', async () => {
    for (let i = 1; i <= 6; i += 1) await pushRun(system, 'churn', `r${i}`, file(1_000 * i));
    for (let i = 0; i < 3; i += 1) system.startLoader();
    for (let i = 1; i <= 6; i += 1)
      expect((await untilFinal(system, 'churn', `r${i}`)).rows).to.equal(1_000 * i);
    expect((await getRun(system, 'churn', 'r6')).state).to.equal('published');
    const attempts = await system.query<{ outcome: string; error: string | null }>(
      'SELECT outcome, error FROM ingest.load_attempt',
    );
    // On a busy machine a load may exceed a time-out, and is retried; it must not meet a deadlock.
    for (const { error } of attempts) expect(error ?? '').to.not.contain('deadlock');
    expect(attempts.filter(({ outcome }) => outcome !== 'retry')).to.have.length(6);
    const [seen] = await system.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.churn');
    expect(seen).to.deep.equal({ rows: 6_000, run: 'r6' });
  });

  it('rolls back when it is stopped, and another one takes the run over at once', async () => {
    const { letGo } = await holdLoads();
    await pushRun(system, 'churn', 'r', file(1_000));
    const first = system.startLoader();
    await until('r', ({ state }) => state === 'loading');
    await first.stop();
    expect((await getRun(system, 'churn', 'r')).state).to.equal('queued');
    const startedMs = performance.now();
    system.startLoader();
    await until('r', ({ load }) => (load?.attempt ?? 0) === 2);
    expect(performance.now() - startedMs).to.be.lessThan(5_000);
    await letGo();
    expect((await untilFinal(system, 'churn', 'r')).state).to.equal('published');
  });

  it('reports the attempt of a loader that vanished as lost', async () => {
    await pushRun(system, 'churn', 'r', file(10));
    await system.query(
      `INSERT INTO ingest.load_attempt (revision_id, attempt, worker) SELECT revision_id, 1, 'gone' FROM ingest.run_revision`,
    );
    system.startLoader();
    expect((await untilFinal(system, 'churn', 'r')).load?.attempt).to.equal(2);
    const [lost] = await system.query<{ outcome: string; error: string }>(
      'SELECT outcome, error FROM ingest.load_attempt WHERE attempt = 1',
    );
    expect(lost?.outcome).to.equal('lost');
    expect(lost?.error).to.contain('vanished');
  });

  it('waits for a lock that somebody else holds on the model, without failing the load', async () => {
    await pushRun(system, 'churn', 'first', file(10));
    system.startLoader();
    await untilFinal(system, 'churn', 'first');
    const blocker = system.query(
      `BEGIN; LOCK TABLE run_data.churn IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(1.5); COMMIT`,
    );
    await pushRun(system, 'churn', 'second', file(20));
    expect((await untilFinal(system, 'churn', 'second')).load?.attempt).to.equal(1);
    await blocker;
  });

  it('neither waits for a reader whose transaction stays open, nor makes readers wait', async () => {
    await pushRun(system, 'churn', 'first', file(10));
    system.startLoader();
    await untilFinal(system, 'churn', 'first');
    const reader = new pg.Client({ connectionString: system.databaseUrl });
    await reader.connect();
    await reader.query('BEGIN');
    await reader.query('SELECT count(*) FROM scores.churn');
    await pushRun(system, 'churn', 'second', file(20));
    expect((await untilFinal(system, 'churn', 'second')).state).to.equal('published');
    expect(await system.query('SELECT count(*)::int AS rows FROM scores.churn')).to.deep.equal([
      { rows: 20 },
    ]);
    await reader.end();
  });

  it('loads a revision that is being loaded to its end, and then the newer one', async () => {
    const { letGo } = await holdLoads();
    await pushRun(system, 'churn', 'r', file(1_000));
    system.startLoader();
    await until('r', ({ state }) => state === 'loading');
    await pushRun(system, 'churn', 'r', file(5));
    await letGo();
    const run = await untilFinal(system, 'churn', 'r');
    expect(run).to.include({ revision: 2, state: 'published', rows: 5 });
    const revisions = await system.query(
      `SELECT revision, state FROM ingest.run_revision WHERE run_key = 'r' ORDER BY revision`,
    );
    expect(revisions).to.deep.equal([
      { revision: 1, state: 'superseded' },
      { revision: 2, state: 'published' },
    ]);
  });

  it('never loads what a newer push of the run has made pointless', async () => {
    const declared = await declare(system, 'churn', 'r', file(50));
    await pushRun(system, 'churn', 'r', file(60));
    const late = await patch(
      system,
      declared.missing.files[0]?.uploadUrl ?? '',
      0,
      Buffer.from(scoreLines(50)),
    );
    expect(late.status).to.equal(410);
    system.startLoader();
    expect((await untilFinal(system, 'churn', 'r')).rows).to.equal(60);
    expect(await system.query(`SELECT state FROM ingest.run_revision WHERE revision = 1`)).to.deep.equal([
      { state: 'cancelled' },
    ]);
  });
});
