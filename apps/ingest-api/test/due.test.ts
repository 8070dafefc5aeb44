import { expect } from 'chai';
import * as answers from 'wire';
import {
  declare,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const PATIENCE_MS = 60_000;

describe('due runs', () => {
  let system: TestSystem;
  let operator: string;

  before(async () => {
    system = await startSystem();
    // Months and days are those of UTC, whatever somebody has set for the database.
    await system.query(
      `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Pacific/Auckland''', current_database()); END $$`,
    );
    await system.restartService();
    system.startLoader();
    operator = await system.createToken({ name: 'olga', scopes: ['read', 'operate'] });
  });
  after(() => system.stop());

  const contract = (model: string, json: answers.Contract | Record<string, unknown>) =>
    system.request('PUT', `/v1/models/${model}`, { token: operator, json });
  const modelOf = async (model: string) =>
    answers.model.parse(await (await system.request('GET', `/v1/models/${model}`)).json());
  const overdue = async (token = system.token) =>
    answers.status.parse(await (await system.request('GET', '/v1/status', { token })).json());
  async function load(model: string, run: string, rows = 5): Promise<void> {
    await pushRun(system, model, run, [{ name: 'a.jsonl', content: scoreLines(rows) }]);
    await untilFinal(system, model, run, PATIENCE_MS);
  }

  it('count months and days of the calendar in UTC from the run that readers see', async () => {
    const cases: [run: string, every: string, grace: string | undefined, asOf: string, at: string][] = [
      ['2026-01-31', '1 month', '3 days', '2026-02-28T00:00:00.000Z', '2026-03-03T00:00:00.000Z'],
      ['2024-01-31', '1 month', undefined, '2024-02-29T00:00:00.000Z', '2024-03-01T00:00:00.000Z'],
      ['2026-03-28', '1 day', '0 hours', '2026-03-29T00:00:00.000Z', '2026-03-29T00:00:00.000Z'],
      ['2026-09-26', '7 days', '12 hours', '2026-10-03T00:00:00.000Z', '2026-10-03T12:00:00.000Z'],
      ['2026-04-03T22:30:00Z', '6 hours', '1 week', '2026-04-04T04:30:00.000Z', '2026-04-11T04:30:00.000Z'],
      ['2024-02-29', '1 year', '2 months', '2025-02-28T00:00:00.000Z', '2025-04-28T00:00:00.000Z'],
    ];
    for (const [index, [run, expectEvery, expectGrace, asOf, at]] of cases.entries()) {
      await load(`calendar_${index}`, run);
      await contract(`calendar_${index}`, { expectEvery, ...(expectGrace && { expectGrace }) });
      const { due, current } = await modelOf(`calendar_${index}`);
      expect(due, `${run} ${expectEvery}`).to.deep.include({ as_of: asOf, at });
      expect(current?.run).to.equal(run);
    }
    const status = await overdue();
    expect(status.overdue.map(({ due }) => due.at)).to.deep.equal(cases.map(([, , , , at]) => at).toSorted());
    expect(status.overdueModels).to.equal(cases.length);
  });

  it('are overdue until a newer run is published: not failed, held or withdrawn, nor an older one', async () => {
    const find = async (model: string) => (await overdue()).overdue.find((it) => it.model === model);
    await load('monthly', '2026-05');
    await contract('monthly', { expectEvery: '1 month', minRows: 5 });
    expect(await find('monthly')).to.deep.include({
      due: { as_of: '2026-06-01T00:00:00.000Z', at: '2026-06-02T00:00:00.000Z', overdue: true },
      newest: null,
    });
    expect((await find('monthly'))?.shown).to.include({ run: '2026-05', as_of: '2026-05-01T00:00:00.000Z' });

    await load('monthly', '2026-04');
    expect((await find('monthly'))?.newest).to.equal(null);
    await load('monthly', '2026-06', 1);
    expect((await find('monthly'))?.newest).to.include({ run: '2026-06', state: 'held' });
    await system.request('DELETE', runPath('monthly', '2026-06'), { token: operator });
    expect((await find('monthly'))?.newest).to.include({ run: '2026-06', state: 'cancelled' });
    await pushRun(system, 'monthly', '2026-07', [{ name: 'a.jsonl', content: 'no json\n' }]);
    await untilFinal(system, 'monthly', '2026-07', PATIENCE_MS);
    expect((await find('monthly'))?.newest).to.include({ run: '2026-07', state: 'failed' });

    const [row] = await system.query(`SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS today`);
    await load('monthly', row?.today);
    expect(await find('monthly')).to.equal(undefined);
    expect((await modelOf('monthly')).due?.overdue).to.equal(false);

    const rollback = { run: '2026-05', reason: 'the new scores are wrong', force: true };
    await system.request('PUT', '/v1/models/monthly/current', { token: operator, json: rollback });
    expect((await find('monthly'))?.newest).to.include({ run: row?.today, state: 'superseded' });
  });

  it('count from the creation of a model that was never published, and only if the contract expects runs', async () => {
    await contract('first', { expectEvery: '7 days', expectGrace: '1 day' });
    expect((await modelOf('first')).due?.overdue).to.equal(false);
    await system.query(`UPDATE ingest.model SET created_at = '2026-01-01T10:00:00Z' WHERE name = 'first'`);
    await declare(system, 'first', '2026-02', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    const found = (await overdue()).overdue.find(({ model }) => model === 'first');
    expect(found).to.deep.include({
      shown: null,
      due: { as_of: '2026-01-08T10:00:00.000Z', at: '2026-01-09T10:00:00.000Z', overdue: true },
    });
    expect(found?.newest).to.include({ run: '2026-02', state: 'receiving' });
    await contract('first', { owner: 'Ana Souza', contact: '#scores' });
    expect(await modelOf('first')).to.deep.include({
      due: null,
      contract: { owner: 'Ana Souza', contact: '#scores' },
    });
    // Nobody else writes this column; if somebody does, the others are still answered.
    await system.query(`UPDATE ingest.model SET contract = '{"expectEvery":"often"}' WHERE name = 'first'`);
    expect((await overdue()).overdue.map(({ model }) => model)).to.not.include('first');
    await contract('first', {});
  });

  it('are hidden from a token that does not cover the model', async () => {
    await load('seen', '2026-05');
    await contract('seen', { expectEvery: '1 month' });
    const token = await system.createToken({ name: 'one', models: ['seen' as never] });
    const status = await overdue(token);
    expect(status.overdue.map(({ model }) => model)).to.deep.equal(['seen']);
    expect(status.overdueModels).to.equal(1);
  });

  it('come from intervals, owners and contacts that make sense', async () => {
    const wrong: Record<string, unknown>[] = [
      { expectEvery: 'monthly' },
      { expectEvery: '1 fortnight' },
      { expectEvery: '0 days' },
      { expectEvery: '-1 month' },
      { expectEvery: '1 month; DROP' },
      { expectEvery: 30 },
      { expectGrace: '1 day' },
      { expectEvery: '1 month', expectGrace: 'a day' },
      { owner: '' },
      { owner: ' Ana' },
      { contact: 'a\u202eb' },
      { contact: 'x'.repeat(201) },
    ];
    for (const json of wrong) {
      const answer = await contract('wrong', json);
      expect(answer.status, JSON.stringify(json)).to.equal(400);
      expect(answers.problem.parse(await answer.json()).detail).to.include(Object.keys(json).at(-1));
    }
  });

  it('are metrics, as failed and held runs and expiring tokens are, with bounded names', async () => {
    await system.createToken({ name: 'soon', expiresAt: new Date(Date.now() + 5 * 86_400_000) });
    await system.createToken({ name: 'later', expiresAt: new Date(Date.now() + 15 * 86_400_000) });
    await system.createToken({ name: 'rotated', expiresAt: new Date(Date.now() + 3 * 86_400_000) });
    await system.query(
      `INSERT INTO ingest.api_token (name, token_sha256, scopes) VALUES ('rotated', sha256('x'), '{read}')`,
    );
    // Many models fail at once; 'monthly' has failed before all of them.
    await system.query(`
      INSERT INTO ingest.model (name) SELECT 'm' || i FROM generate_series(1, 120) i`);
    await system.query(
      `INSERT INTO ingest.run (model, run_key) SELECT 'm' || i, 'r' FROM generate_series(1, 120) i`,
    );
    await system.query(`
      INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by)
      SELECT 'm' || i, 'r', n, 'failed', now(), 'tester' FROM generate_series(1, 120) i, generate_series(1, 2) n`);
    const text = await (await system.request('GET', '/metrics')).text();
    expect(text).to.include(
      `ingest_run_due_timestamp_seconds{model="calendar_0"} ${Date.parse('2026-03-03') / 1000}\n`,
    );
    expect(text).to.match(/^ingest_token_expiry_timestamp_seconds\{token="soon"\} \d+/m);
    expect(text.match(/^ingest_token_expiry_timestamp_seconds\{/gm)).to.have.length(1);
    const failed = text.match(/^ingest_model_runs\{.*state="failed"\} \d+$/gm) ?? [];
    expect(failed).to.have.length(101);
    expect(failed).to.include('ingest_model_runs{model="m120",state="failed"} 1');
    expect(failed).to.include('ingest_model_runs{model="_others",state="failed"} 21');
  });
});
