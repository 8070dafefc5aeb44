import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { expect } from 'chai';
import pg from 'pg';
import {
  eventually,
  getRun,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const MAIN = path.join(import.meta.dirname, '../bin/ingest-api.js');
const DEADLINE_MS = 30_000;

describe('a run whose loaders vanish', () => {
  let system: TestSystem;
  let holder: pg.Client;
  before(async () => {
    system = await startSystem();
    holder = new pg.Client({ connectionString: system.databaseUrl });
    await holder.connect();
  });
  after(async () => {
    await holder.end();
    await system.stop();
  });

  const file = (rows: number) => [{ name: 'a.jsonl', content: scoreLines(rows) }];
  const attempts = () =>
    system.query<{ attempt: number; outcome: string | null; error: string | null; waits: boolean }>(
      `SELECT a.attempt, a.outcome, a.error, coalesce(a.next_try_at > a.finished_at, false) AS waits
       FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id)
       WHERE run_key = 'killer' ORDER BY attempt`,
    );

  /** A loader process that is killed while it holds the run, which cannot end: somebody holds what ATTACH needs. */
  async function killLoaderAtAttempt(attempt: number): Promise<void> {
    const loader = spawn(process.execPath, [MAIN, 'load'], {
      env: { ...process.env, DATABASE_URL: system.databaseUrl, INGEST_DATA_DIR: system.dataDir },
      stdio: 'ignore',
    });
    const ended = once(loader, 'exit');
    try {
      await eventually(attempts, (rows) => rows.at(-1)?.attempt === attempt, DEADLINE_MS);
    } finally {
      loader.kill('SIGKILL');
      await ended;
    }
  }

  it('is not loaded for ever when it was withdrawn before another loader claimed it', async () => {
    await pushRun(system, 'gone', 'r', file(10));
    // A transaction that has ended, as that of a killed loader.
    await system.query(
      `INSERT INTO ingest.load_attempt (revision_id, attempt, worker, transaction_id, updated_at)
       SELECT revision_id, 1, 'gone', pg_current_xact_id(), now() - interval '1 hour'
       FROM ingest.run_revision WHERE model = 'gone'`,
    );
    const operator = await system.createToken({ name: 'withdraws', scopes: ['operate'] });
    const withdrawn = await system.request('DELETE', runPath('gone', 'r'), { token: operator });
    expect(withdrawn.status).to.equal(200);
    const loader = system.startLoader();
    const ended = await eventually(
      () =>
        system.query<{ outcome: string | null; error: string }>(
          `SELECT outcome, error FROM ingest.load_attempt WHERE worker = 'gone'`,
        ),
      ([attempt]) => attempt?.outcome !== null,
    );
    expect(ended[0]?.outcome).to.equal('lost');
    expect(ended[0]?.error).to.contain('vanished').and.not.contain('ended its connection');
    await loader.stop();
  });

  it('is taken up at once after the first, and from the second in a row on waits, while others are loaded', async () => {
    await pushRun(system, 'churn', 'before', file(10));
    const first = system.startLoader();
    await untilFinal(system, 'churn', 'before');
    await first.stop();
    await holder.query('BEGIN; LOCK TABLE run_data.churn IN SHARE UPDATE EXCLUSIVE MODE');
    await pushRun(system, 'churn', 'killer', file(1_000));

    await killLoaderAtAttempt(1);
    await killLoaderAtAttempt(2);
    expect((await attempts())[0]).to.include({ outcome: 'lost', waits: false });
    // As if loaders 1 to 5 had been lost before that, so that the wait is long enough to look at.
    await system.query(`UPDATE ingest.load_attempt SET attempt = attempt + 4 WHERE attempt = 2`);
    await system.query(
      `INSERT INTO ingest.load_attempt (revision_id, attempt, worker, outcome, finished_at)
       SELECT revision_id, attempt, 'gone', 'lost', now() FROM ingest.run_revision, generate_series(2, 5) AS attempt
       WHERE run_key = 'killer'`,
    );

    system.startLoader();
    await pushRun(system, 'fraud', 'other', file(10));
    expect((await untilFinal(system, 'fraud', 'other', DEADLINE_MS)).state).to.equal('published');
    const lost = (await eventually(attempts, (rows) => rows.at(-1)?.outcome === 'lost', DEADLINE_MS)).at(-1);
    expect(lost).to.include({ attempt: 6, waits: true });
    expect(lost?.error).to.contain('6 times in a row');
    const waiting = await getRun(system, 'churn', 'killer');
    expect(waiting).to.include({ state: 'queued' });
    expect(waiting.load?.lastError).to.contain("the kernel's log");

    const operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    const retried = await system.request('POST', `${runPath('churn', 'killer')}/retry`, {
      json: { reason: 'there is more memory now' },
      token: operator,
    });
    expect(retried.status).to.equal(200);
    await eventually(attempts, (rows) => rows.length === 7, DEADLINE_MS);
    await holder.query('COMMIT');
    const run = await untilFinal(system, 'churn', 'killer', DEADLINE_MS);
    expect(run).to.include({ state: 'published', rows: 1_000 });
  });
});
