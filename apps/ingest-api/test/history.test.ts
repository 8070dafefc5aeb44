import { expect } from 'chai';
import { type Database, openDatabase } from 'db-schema';
import { type CompiledQuery, Kysely, PostgresDialect, sql } from 'kysely';
import type pg from 'pg';
import { fillHistory } from '../../../bench/history-rows.ts';
import { pruneHistory } from '../src/runs/expiry.ts';
import { listModels } from '../src/runs/models.ts';
import { foldTally, serviceFigures } from '../src/runs/status.ts';
import { listRuns, listRunsNeedingAttention } from '../src/runs/summaries.ts';
import { RunWatch } from '../src/runs/watch.ts';
import {
  declare,
  eventually,
  getRun,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

describe('a long history', () => {
  let system: TestSystem;
  let pool: pg.Pool;
  let db: Kysely<Database>;
  /** Every statement that `db` has run. */
  let statements: CompiledQuery[] = [];

  before(async () => {
    system = await startSystem();
    system.startLoader({ pollIntervalMs: 50 });
    ({ pool } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      onIdleError: () => {},
    }));
    db = new Kysely({
      dialect: new PostgresDialect({ pool }),
      log: ({ query }) => void statements.push(query),
    });
  });
  after(async () => {
    await pool.end();
    await system.stop();
  });

  const file = (rows: number, shift = 0) => [{ name: 'a.jsonl', content: scoreLines(rows, 1, shift) }];

  /** What is kept of the runs, and what a count of all rows says. */
  async function expectTrueCounters(): Promise<void> {
    const differences = await system.query(`
      WITH newest AS (
        SELECT DISTINCT ON (model, run_key) model, run_key, revision_id, state, as_of FROM ingest.run_revision
        ORDER BY model, run_key, revision DESC),
      counted AS (
        SELECT 'runs' AS name, state AS label, model, count(*) AS amount FROM newest GROUP BY 2, 3
        UNION ALL SELECT 'uploads_created', NULL, NULL, count(*) FROM ingest.upload
        UNION ALL SELECT 'uploads_finished', NULL, NULL, count(received_at) FROM ingest.upload
        UNION ALL SELECT 'upload_bytes', NULL, NULL, sum(offset_bytes) FROM ingest.upload
        UNION ALL SELECT 'loads', outcome, NULL, count(*) FROM ingest.load_attempt WHERE outcome IS NOT NULL GROUP BY 2
        UNION ALL SELECT 'loaded_rows', NULL, NULL, sum(rows_done) FROM ingest.load_attempt
          WHERE outcome IN ('published', 'superseded', 'held')
        UNION ALL SELECT 'denials', NULL, NULL, count(*) FROM ingest.audit_event WHERE action = 'deny'),
      kept AS (
        SELECT name, label, model, sum(amount) AS amount FROM ingest.tally
        WHERE name IN (SELECT name FROM counted) GROUP BY 1, 2, 3 HAVING sum(amount) <> 0)
      SELECT to_jsonb(c) AS counted, to_jsonb(k) AS kept FROM counted c FULL JOIN kept k
        ON k.name = c.name AND k.label IS NOT DISTINCT FROM c.label AND k.model IS NOT DISTINCT FROM c.model
      WHERE coalesce(c.amount, 0) <> coalesce(k.amount, 0)
      UNION ALL
      SELECT to_jsonb(n), to_jsonb(k) FROM newest n FULL JOIN ingest.newest_revision k USING (model, run_key)
      WHERE (n.revision_id, n.state, n.as_of) IS DISTINCT FROM (k.revision_id, k.state, k.as_of)`);
    expect(differences).to.deep.equal([]);
  }

  it('is counted as it happens, also when a run is declared again while it is loaded', async () => {
    const operator = await system.createToken({ name: 'operator', scopes: ['operate', 'push', 'read'] });
    await Promise.all(
      ['churn', 'fraud'].map(async (model) => {
        for (let revision = 1; revision <= 12; revision += 1) {
          await pushRun(system, model, `run ${revision % 3}`, file(200, revision));
          await declare(system, model, `withdrawn ${revision % 2}`, file(3, revision));
        }
        for (const run of ['withdrawn 0', 'withdrawn 1'])
          await system.request('DELETE', runPath(model, run), { token: operator, json: {} });
      }),
    );
    await system.request('GET', '/v1/status', { token: 'si_unknown' });
    for (const model of ['churn', 'fraud'])
      for (const run of ['run 0', 'run 1', 'run 2']) await untilFinal(system, model, run);
    await expectTrueCounters();
    await foldTally(db);
    await expectTrueCounters();
    const { rows } = await sql<{ most: number }>`
      SELECT max(n) AS most FROM (SELECT count(*) AS n FROM ingest.tally GROUP BY name, label, model) t`.execute(
      db,
    );
    expect(rows[0]?.most).to.equal(1);
  });

  it('pushed again after it was pruned keeps its place: no run that readers see is replaced', async () => {
    const old = file(10, 5);
    await pushRun(system, 'undated', 'old', old);
    await untilFinal(system, 'undated', 'old');
    await pushRun(system, 'undated', 'new', file(20));
    await untilFinal(system, 'undated', 'new');
    const { as_of } = (await getRun(system, 'undated', 'old')) as unknown as { as_of: string };
    await system.query(
      `UPDATE ingest.run_revision SET declared_at = declared_at - interval '3 days', loaded_at = loaded_at - interval '3 days',
         published_at = published_at - interval '3 days', compared_with = NULL WHERE model = 'undated'`,
    );
    await pruneHistory(db, DAY_MS);
    expect((await getRun(system, 'undated', 'old')).revision, 'its rows are kept').to.equal(1);
    await system.query(`DROP TABLE run_data."undated$${await idOf('old')}"`);
    await pruneHistory(db, DAY_MS);
    expect((await system.request('GET', runPath('undated', 'old'))).status).to.equal(404);
    expect((await getRun(system, 'undated', 'new')).state).to.equal('published');

    await pushRun(system, 'undated', 'old', old);
    const again = await untilFinal(system, 'undated', 'old');
    expect(again).to.deep.include({ revision: 2, state: 'superseded', rows: 10, as_of });
    expect(await system.query('SELECT count(*)::int AS rows FROM scores.undated')).to.deep.equal([
      { rows: 20 },
    ]);
  });

  async function idOf(run: string): Promise<number> {
    const rows = await system.query<{ id: number }>(
      'SELECT revision_id AS id FROM ingest.run_revision WHERE run_key = $1',
      [run],
    );
    return rows[0]?.id ?? 0;
  }

  describe('of thousands of runs', () => {
    const RUNS = 6_000;
    /** Fewer than there are runs. */
    const MOST_ROWS = 3_000;
    before(() => fillHistory(system.query, { runs: RUNS, models: 20 }));

    it('costs no more than a short one: no answer reads all runs', async () => {
      await expectTrueCounters();
      await foldTally(db);
      await system.query('VACUUM ANALYZE');
      const one = ['model_7'];
      const asked: Record<string, () => Promise<unknown>> = {
        'metrics and status': () => serviceFigures(db),
        attention: () => listRunsNeedingAttention(db, null, 50),
        'attention of a model': () => listRunsNeedingAttention(db, one, 50),
        runs: () => listRuns(db, { models: null, limit: 50 }),
        'a later page': () => listRuns(db, { models: null, before: RUNS / 2, limit: 50 }),
        'a rare state': () => listRuns(db, { models: null, states: ['loading', 'held'], limit: 50 }),
        'a model': () => listRuns(db, { models: one, limit: 50 }),
        'a state of a model': () => listRuns(db, { models: one, states: ['cancelled', 'failed'], limit: 50 }),
        'the newest of each model': () => listRuns(db, { models: null, perModel: 5, limit: 100 }),
        models: () => listModels(db, { models: null, limit: 100 }),
        watch: watchTwice,
      };
      for (const [name, ask] of Object.entries(asked)) {
        statements = [];
        await ask();
        expect(statements, name).not.to.be.empty;
        for (const statement of [...statements])
          expect(await rowsRead(statement), `${name}: ${statement.sql}`).to.be.below(MOST_ROWS);
      }
    });

    async function watchTwice(): Promise<void> {
      const faults: unknown[] = [];
      let isStopping = false;
      const watch = new RunWatch({
        db,
        isStopping: () => isStopping,
        onFault: (error) => faults.push(error),
      }).start();
      watch.want();
      await eventually(
        async () => statements.length,
        (count) => count >= 2,
      );
      isStopping = true;
      expect(faults).to.deep.equal([]);
      expect(statements.length, 'statements of two polls when nothing moves').to.be.below(6);
    }

    interface PlanNode {
      readonly 'Node Type': string;
      readonly 'Actual Rows': number;
      readonly 'Actual Loops': number;
      readonly 'Rows Removed by Filter'?: number;
      readonly 'Rows Removed by Index Recheck'?: number;
      readonly Plans?: readonly PlanNode[];
    }

    /** How many rows the scans of a statement read. */
    async function rowsRead(statement: CompiledQuery): Promise<number> {
      const { rows } = await pool.query<{ 'QUERY PLAN': readonly { readonly Plan: PlanNode }[] }>(
        `EXPLAIN (ANALYZE, FORMAT JSON) ${statement.sql}`,
        [...statement.parameters],
      );
      const read = (node: PlanNode): number => {
        const below = (node.Plans ?? []).reduce((sum, child) => sum + read(child), 0);
        if (!/^(Seq|Index|Bitmap Heap)/.test(node['Node Type'])) return below;
        const each =
          node['Actual Rows'] +
          (node['Rows Removed by Filter'] ?? 0) +
          (node['Rows Removed by Index Recheck'] ?? 0);
        return below + each * node['Actual Loops'];
      };
      return rows[0]?.['QUERY PLAN'].reduce((sum, { Plan }) => sum + read(Plan), 0) ?? Number.NaN;
    }

    it('is pruned to what is young, published or waits for a decision, and stays counted', async () => {
      const before = await serviceFigures(db);
      const cutoff = `now() - interval '365 days'`;
      await system.query('UPDATE ingest.run_revision SET file_count = 15000 WHERE revision_id % 100 = 0');
      await system.query('UPDATE ingest.run_revision SET file_count = 50000 WHERE revision_id % 1000 = 0');
      const filesOf = new Map(
        (
          await system.query<{ id: number; files: number }>(
            'SELECT revision_id AS id, file_count AS files FROM ingest.run_revision',
          )
        ).map(({ id, files }) => [id, files]),
      );
      statements = [];
      const pruned = await pruneHistory(db, 365 * DAY_MS);
      const batches = statements
        .filter((it) => it.sql.startsWith('DELETE FROM ingest.run_revision'))
        .map((it) => it.parameters[0] as number[]);
      expect(batches.length).to.be.above(10);
      for (const batch of batches) {
        const files = batch.reduce((sum, id) => sum + (filesOf.get(id) ?? 0), 0);
        if (batch.length > 1) expect(files, 'files of one transaction').to.be.at.most(20_000);
        expect(batch.length).to.be.at.most(500);
      }
      expect(pruned.revisions).to.be.above(RUNS / 2);
      expect(pruned.uploads).to.equal(pruned.revisions);
      expect(pruned.auditEvents, 'the most of one sweep').to.equal(20_000);
      await pruneHistory(db, 365 * DAY_MS);
      const nothing = { revisions: 0, uploads: 0, auditEvents: 0 };
      expect(await pruneHistory(db, 365 * DAY_MS)).to.deep.equal(nothing);
      const left = await system.query<{ state: string; runs: number }>(
        `SELECT state, count(*)::int AS runs FROM ingest.run_revision WHERE declared_at < ${cutoff} GROUP BY 1`,
      );
      expect(left.map(({ state }) => state)).to.deep.equal(['held']);
      expect(
        await system.query(
          `SELECT FROM ingest.run_revision r FULL JOIN ingest.newest_revision n USING (revision_id)
           WHERE n.revision_id IS NULL AND r.revision = 1 AND NOT EXISTS (
             SELECT FROM ingest.run_revision l WHERE l.model = r.model AND l.run_key = r.run_key AND l.revision > 1)`,
        ),
      ).to.deep.equal([]);
      for (const state of ['published', 'held'])
        expect((await serviceFigures(db)).states[state], state).to.equal(before.states[state]);
      const after = await serviceFigures(db);
      expect([after.loads, after.uploads, after.loaded, after.denials]).to.deep.equal([
        before.loads,
        before.uploads,
        before.loaded,
        before.denials,
      ]);
    });
  });
});
