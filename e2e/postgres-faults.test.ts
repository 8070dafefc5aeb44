import { join } from 'node:path';
import { expect } from 'chai';
import pg from 'pg';
import { runProgram, waitFor } from './support/programs.ts';
import { type CommitProxy, startCommitProxy, startTcpProxy } from './support/proxies.ts';
import { testSeed, writeScoreFile } from './support/score-file.ts';
import {
  type OwnPostgres,
  type Service,
  startOwnPostgres,
  startOwnPostgresWithStandby,
  startTestSystem,
  type TestSystem,
} from './support/test-system.ts';

const LINES = 400_000;

describe('PostgreSQL that fails', function () {
  this.timeout(240_000);
  let system: TestSystem;

  const pushArgs = (run: string) => ['push', join(system.workDir, run), '--model', 'churn', '--run', run];

  async function expectPublishedOnce(run: string, attempts: string[]): Promise<void> {
    const outcomes = await system.query<{ outcome: string }>(
      `SELECT outcome FROM ingest.load_attempt JOIN ingest.run_revision USING (revision_id) WHERE run_key = $1 ORDER BY attempt`,
      [run],
    );
    expect(outcomes.map(({ outcome }) => outcome)).to.deep.equal(attempts);
    expect(
      await system.query(
        `SELECT FROM ingest.publication JOIN ingest.run_revision USING (revision_id) WHERE run_key = $1`,
        [run],
      ),
    ).to.have.length(1);
    const seen = await system.query(`SELECT count(*)::int AS rows, min(run) AS run FROM scores.churn`);
    expect(seen).to.deep.equal([{ rows: LINES, run }]);
  }

  describe('in mid load', () => {
    let proxy: CommitProxy | undefined;
    before(async () => {
      system = await startTestSystem({
        databasePort: async (url) => {
          proxy = await startCommitProxy(Number(new URL(url).port));
          return proxy.port;
        },
      });
    });
    after(async () => {
      await system.stop();
      await proxy?.stop();
    });

    it('by losing the connection in COPY, key build and ATTACH is tried again, and publishes once each', async () => {
      const service = await system.startService();
      const loader = system.startLoader();
      const seed = testSeed();
      const statements = {
        copy: 'COPY',
        key: 'ALTER TABLE % ADD PRIMARY KEY%',
        attach: 'SELECT ingest.attach_revision(%',
      };
      await writeScoreFile(join(system.workDir, 'first/scores.jsonl'), LINES, seed);
      expect((await system.runUploader(service.url, pushArgs('first'))).code).to.equal(0);

      for (const [run, statement] of Object.entries(statements)) {
        await writeScoreFile(join(system.workDir, `${run}/scores.jsonl`), LINES, seed + run.length);
        // What ATTACH waits for, so that it lasts long enough to be hit.
        const release = run === 'attach' ? await holdLock('run_data.churn') : async () => {};
        const push = system.startUploader(service.url, pushArgs(run));
        await waitFor(`a backend to be killed in ${run}`, () => terminate(statement), 40_000);
        await release();
        const { code, stderr } = await push.ended;
        expect(code, stderr).to.equal(0);
        await expectPublishedOnce(run, ['retry', 'published']);
      }
      await loader.kill('SIGTERM');
      await service.kill('SIGTERM');
    });

    it('by losing the answer to COMMIT is asked what became of it, and does not load again', async () => {
      const service = await system.startService();
      const loader = system.startLoader();
      await writeScoreFile(join(system.workDir, 'commit/scores.jsonl'), LINES, testSeed());
      proxy?.loseNextAnswer();
      const { code, stderr } = await system.runUploader(service.url, pushArgs('commit'));
      expect(code, stderr).to.equal(0);
      expect(proxy?.lostAnswers()).to.equal(1);
      await expectPublishedOnce('commit', ['published']);
      await loader.kill('SIGTERM');
      await service.kill('SIGTERM');
    });

    async function terminate(statement: string): Promise<boolean> {
      const rows = await system.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'ingest-api load' AND query LIKE $1 || '%'`,
        [statement],
      );
      return rows.length > 0;
    }

    /** Ends with the function that is given, at the latest after 30 s. */
    async function holdLock(table: string): Promise<() => Promise<void>> {
      const holding = system
        .query(`BEGIN; LOCK TABLE ${table} IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(30); COMMIT`)
        .catch(() => {});
      await waitFor('the lock', async () => {
        const rows = await system.query(
          `SELECT FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND granted AND relation = $1::regclass`,
          [table],
        );
        return rows.length > 0;
      });
      return async () => {
        await system.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK TABLE%' AND pid <> pg_backend_pid()`,
        );
        await holding;
      };
    }
  });

  describe('as a whole', () => {
    let postgres: OwnPostgres;
    before(async () => {
      postgres = await startOwnPostgres();
      system = await startTestSystem({ serverUrl: postgres.url });
    });
    after(async () => {
      await system.stop();
      await postgres.stop();
    });

    it('is answered with 503 by probe and uploads; both continue when it is back', async () => {
      const service = await system.startService();
      const proxy = await startTcpProxy(service.port);
      system.startLoader();
      const file = await writeScoreFile(join(system.workDir, 'stopped/scores.jsonl'), LINES, testSeed());
      // Uncompressed, because the proxy counts what is on the wire.
      const options = ['--chunk-size', '1MiB', '--compress', 'off'];
      const push = system.startUploader(proxy.url, [...pushArgs('stopped'), ...options]);
      await waitFor('half of it to be sent', () => proxy.sentBytes() > file.bytes / 2, 30_000);
      await postgres.kill('SIGQUIT');

      const statusOf = async (path: string) => (await fetch(`${service.url}${path}`)).status;
      await waitFor('the probe to tell', async () => (await statusOf('/readyz')) === 503);
      expect(await statusOf('/livez')).to.equal(200);
      const refused = await fetch(`${service.url}/v1/uploads/${'0'.repeat(32)}`, {
        method: 'PATCH',
        headers: { authorization: 'Bearer some-token', 'tus-resumable': '1.0.0' },
      });
      expect(refused.status).to.equal(503);
      expect(refused.headers.get('retry-after')).to.match(/^\d+$/);
      expect(await refused.json()).to.include({ code: 'database_unavailable', retryable: true });

      await postgres.start();
      await waitFor('the probe to be well again', async () => (await statusOf('/readyz')) === 200);
      const { code, stderr } = await push.ended;
      expect(code, stderr).to.equal(0);
      const [seen] = await system.query<{ rows: number }>('SELECT count(*)::int AS rows FROM scores.churn');
      expect(seen?.rows).to.equal(LINES);

      // And in mid load: the server restarts, and the run is loaded again.
      await writeScoreFile(join(system.workDir, 'again/scores.jsonl'), LINES, testSeed());
      const again = system.startUploader(service.url, pushArgs('again'));
      await waitFor(
        'its COPY',
        async () => (await system.query('SELECT FROM pg_stat_progress_copy')).length > 0,
        30_000,
      );
      await postgres.restart('SIGQUIT');
      const ending = await again.ended;
      expect(ending.code, ending.stderr).to.equal(0);
      expect(await system.query('SELECT FROM ingest.publication')).to.have.length(2);
      await proxy.stop();
    });
  });

  describe('with a hot standby and remote_apply', () => {
    let primary: OwnPostgres;
    let standby: OwnPostgres;
    let reader: pg.Client;
    let service: Service;
    before(async () => {
      ({ primary, standby } = await startOwnPostgresWithStandby());
      system = await startTestSystem({ serverUrl: primary.url });
      reader = new pg.Client({ connectionString: standby.url });
      await reader.connect();
      service = await system.startService();
    });
    after(async () => {
      await reader?.end();
      await system.stop();
      await standby.stop();
      await primary.stop();
    });

    const shown = async () => (await reader.query('SELECT DISTINCT run FROM scores.churn')).rows;

    async function push(run: string): Promise<void> {
      await writeScoreFile(join(system.workDir, `${run}/scores.jsonl`), 1_000, testSeed());
      expect((await system.runUploader(service.url, pushArgs(run))).code).to.equal(0);
      expect(await shown(), 'at once').to.deep.equal([{ run }]);
    }

    it('cancels no query there while it waits (INGEST_RETENTION_WAIT_HOURS), and does when it does not', async () => {
      await system.query(
        `INSERT INTO ingest.model (name, contract) VALUES ('churn', '{"keepRevisions": 0}')`,
      );
      const often = { INGEST_RETENTION_INTERVAL_MS: '200' };
      const patient = system.startLoader({ ...often, INGEST_RETENTION_WAIT_HOURS: '1' });
      await push('2026-01');
      await push('2026-02');
      // Without it the standby also cancels a transaction because the primary has removed row versions that it may need.
      await reader.query('ALTER SYSTEM SET hot_standby_feedback = on');
      await reader.query('SELECT pg_reload_conf()');
      const long = new pg.Client({ connectionString: standby.url });
      const cancelled = new Promise<string>((resolve) => long.on('error', ({ message }) => resolve(message)));
      await long.connect();
      await long.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
      await long.query('SELECT FROM scores.churn');
      await waitFor('the feedback of the standby', async () => {
        const rows = await system.query('SELECT FROM pg_stat_replication WHERE backend_xmin IS NOT NULL');
        return rows.length > 0;
      });
      const read = async () =>
        (await long.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.churn')).rows;
      const before = [{ rows: 1_000, run: '2026-02' }];
      expect(await read()).to.deep.equal(before);
      await push('2026-03');
      await waitFor('the first run to be hidden, on the standby too', async () => {
        const { rows } = await reader.query('SELECT FROM pg_inherits WHERE inhdetachpending');
        return rows.length > 0;
      });
      expect(await read()).to.deep.equal(before);
      await patient.kill('SIGKILL');
      const impatient = system.startLoader(often);
      expect(await cancelled).to.contain('conflict with recovery');
      await impatient.kill('SIGKILL');
    });

    it('is said to have published a run only when the standby shows it, even after a crash', async () => {
      await system.query(`UPDATE ingest.model SET contract = '{"keepRevisions": 9}'`);
      system.startLoader();
      await push('2026-04');
      await push('2026-05');
      const create = ['token', 'create', 'operator', '--scope', 'operate,read'];
      const created = await runProgram('ingest-api', create, { DATABASE_URL: primary.url });
      const operator = created.stdout.trimEnd().split('\n').at(-1);
      const ask = (method: string, path: string, body?: string) =>
        fetch(`${service.url}/v1/models/churn/${path}`, {
          method,
          headers: { authorization: `Bearer ${operator}`, 'content-type': 'application/json' },
          ...(body !== undefined && { body }),
        });
      expect((await ask('GET', 'runs/2026-04')).status).to.equal(200); // the first use of a token is recorded
      await reader.query('SELECT pg_wal_replay_pause()');
      void ask('PUT', 'current', '{"run":"2026-04","reason":"a test"}');
      const waitsFor = async (query: string) => {
        const waiting = await system.query(
          `SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'ingest-api serve' AND query ILIKE $1`,
          [query],
        );
        return waiting.length > 0;
      };
      await waitFor('the COMMIT to wait', () => waitsFor('commit'));
      await primary.restart('SIGKILL');
      const answer = waitFor('an answer', async () => {
        const response = await ask('GET', 'runs/2026-04');
        return response.ok && ((await response.json()) as { state: string });
      });
      await waitFor('an answer about the run to wait', () => waitsFor('%pg_logical_emit_message%'));
      expect(await shown()).to.deep.equal([{ run: '2026-05' }]);
      await reader.query('SELECT pg_wal_replay_resume()');
      expect((await answer).state).to.equal('published');
      expect(await shown()).to.deep.equal([{ run: '2026-04' }]);
    });
  });
});
