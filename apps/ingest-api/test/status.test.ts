import { expect } from 'chai';
import * as answers from 'wire';
import { OPERATIONS } from '../src/http/operations.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const file = (lines: number) => [{ name: 'a.jsonl', content: scoreLines(lines) }];

describe('what an operator asks', () => {
  let system: TestSystem;

  beforeEach(async () => {
    system = await startSystem();
  });

  afterEach(() => system.stop());

  const getJson = async (path: string, token = system.token) =>
    (await system.request('GET', path, { token })).json();

  it('says what waits, who loads, what is stalled, and how large an upload may be', async () => {
    await pushRun(system, 'churn', '2026-10', file(10));
    await declare(system, 'fraud', '2026-10', file(20));
    await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '1 hour'
      WHERE received_at IS NULL`);
    const status = answers.status.parse(await getJson('/v1/status'));
    expect(status.queue).to.include({ waiting: 1, loading: 0 });
    expect(status.queue.oldestWaitSeconds).to.be.within(0, 60);
    expect(status.receiving).to.include({ runs: 1, files: 1, stalledFiles: 1 });
    expect(status.loaders).to.equal(0);
    expect(status.disk.largestUploadBytes).to.be.above(0);
    expect(status.needsAttention.map(({ model }) => model)).to.deep.equal(['fraud']);

    system.startLoader();
    await untilFinal(system, 'churn', '2026-10', 60_000);
    await eventually(
      async () => answers.status.parse(await getJson('/v1/status')),
      ({ loaders, queue }) => loaders === 1 && queue.waiting === 0,
      30_000,
    );
  });

  it('says which file is stuck and that nobody can tell when it will be in', async () => {
    const content = scoreLines(100);
    const declared = await declare(system, 'churn', '2026-10', [
      { name: 'a.jsonl', content },
      { name: 'b.jsonl', content: scoreLines(5) },
    ]);
    const [first] = declared.missing.files;
    await patch(system, first?.uploadUrl ?? '', 0, Buffer.from(content).subarray(0, 500));
    await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '1 hour'
      WHERE offset_bytes > 0`);
    const run = answers.run.parse(await getJson(runPath('churn', '2026-10')));
    expect(run.missing.files.map(({ name, stalled, offset }) => [name, stalled, offset])).to.deep.equal([
      ['a.jsonl', true, 500],
      ['b.jsonl', false, 0],
    ]);
    expect(run.progress).to.include({ step: 'receiving', doneBytes: 500, etaSeconds: null });
  });

  it('lists runs page by page, by model and by state', async () => {
    for (const run of ['1', '2', '3']) await declare(system, 'churn', run, file(3));
    await declare(system, 'fraud', '1', file(4));
    const names = ({ runs }: answers.RunList) => runs.map(({ model, run }) => `${model} ${run}`);
    const first = answers.runList.parse(await getJson('/v1/runs?limit=3'));
    expect(names(first)).to.deep.equal(['fraud 1', 'churn 3', 'churn 2']);
    const second = answers.runList.parse(await getJson(`/v1/runs?limit=3&cursor=${first.nextCursor}`));
    expect(names(second)).to.deep.equal(['churn 1']);
    expect(second.nextCursor).to.equal(null);
    expect(names(answers.runList.parse(await getJson('/v1/runs?model=churn&perModel=1')))).to.deep.equal([
      'churn 3',
    ]);
    expect(names(answers.runList.parse(await getJson('/v1/runs?state=published,failed')))).to.deep.equal([]);
    expect((await system.request('GET', '/v1/runs?state=lost')).status).to.equal(400);
  });

  it('shows a token only its own models', async () => {
    await declare(system, 'churn', '1', file(3));
    await declare(system, 'fraud', '1', file(4));
    const token = await system.createToken({ name: 'one', models: ['churn' as never] });
    const list = answers.runList.parse(await getJson('/v1/runs', token));
    expect(list.runs.map(({ model }) => model)).to.deep.equal(['churn']);
    expect(answers.status.parse(await getJson('/v1/status', token)).receiving.runs).to.equal(1);
    expect((await system.request('GET', '/v1/runs?model=fraud', { token })).status).to.equal(404);
    expect((await system.request('GET', '/metrics', { token })).status).to.equal(403);
  });

  it('answers 304 while nothing has changed', async () => {
    await declare(system, 'churn', '1', file(3));
    const first = await system.request('GET', runPath('churn', '1'));
    const headers = { 'if-none-match': first.headers.get('etag') ?? '' };
    expect((await system.request('GET', runPath('churn', '1'), { headers })).status).to.equal(304);
    await patch(
      system,
      (await getRun(system, 'churn', '1')).missing.files[0]?.uploadUrl ?? '',
      0,
      Buffer.from('{'),
    );
    expect((await system.request('GET', runPath('churn', '1'), { headers })).status).to.equal(200);
  });

  it('answers 304 at every address that promises it, of a run that waits, has failed, or is published', async () => {
    const loader = system.startLoader();
    await pushRun(system, 'churn', 'published', file(3));
    await pushRun(system, 'churn', 'failed', [{ name: 'a.jsonl', content: 'no score' }]);
    for (const run of ['published', 'failed']) await untilFinal(system, 'churn', run, 60_000);
    await loader.stop();
    await declare(system, 'churn', 'waiting', file(4));
    const promising = OPERATIONS.filter((operation) => 304 in operation.answers);
    expect(promising).to.have.length.above(3);
    for (const { path } of promising) {
      for (const run of ['waiting', 'failed', 'published']) {
        const address = path.replace(':model', 'churn').replace(':run', run);
        const etag = (await system.request('GET', address)).headers.get('etag') ?? '';
        const again = await system.request('GET', address, { headers: { 'if-none-match': etag } });
        expect(again.status, address).to.equal(304);
      }
    }
  });

  it('has the history of a run: loads, publications, acts', async () => {
    system.startLoader();
    await pushRun(system, 'churn', '2026-10', file(10));
    await untilFinal(system, 'churn', '2026-10', 60_000);
    const history = answers.history.parse(await getJson(`${runPath('churn', '2026-10')}/history`));
    expect(history.attempts[0]).to.include({ attempt: 1, outcome: 'published', rows: 10 });
    expect(history.publications).to.have.length(1);
    expect(history.events.map(({ action, actor }) => `${actor} ${action}`)).to.include('tester declare');
  });

  it('keeps every denial in the audit log, with who and what', async () => {
    const token = await system.createToken({ name: 'one', models: ['churn' as never], scopes: ['read'] });
    await system.request('GET', '/v1/status', { token: 'si_unknown' });
    await system.request('PUT', runPath('churn', '1'), { token, json: {} });
    await system.request('GET', runPath('fraud', '1'), { token });
    const denials = await eventually(
      () =>
        system.query(
          `SELECT actor, detail FROM ingest.audit_event WHERE action = 'deny' ORDER BY actor, detail->>'problem'`,
        ),
      (rows) => rows.length === 3,
    );
    expect(denials.map(({ actor, detail }) => `${actor}: ${detail.problem}`)).to.deep.equal([
      'nobody: unauthenticated',
      'one: forbidden',
      'one: not_covered',
    ]);
  });
});
