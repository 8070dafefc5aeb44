import { expect } from 'chai';
import {
  eventually,
  pushRun,
  type RunAnswer,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

interface Judged extends RunAnswer {
  readonly gates: { gate: string; expected: number; found: number; broken: boolean }[] | null;
  readonly profile: Record<string, unknown> | null;
  readonly previous: { run: string; revision: number; profile: { rows: number } | null } | null;
}

describe('gates', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'olga', scopes: ['operate'] });
    system.startLoader();
  });
  after(() => system.stop());

  const put = (path: string, json: unknown, headers: Record<string, string> = {}) =>
    system.request('PUT', path, { json, headers, token: operator });

  async function push(model: string, run: string, content: string): Promise<Judged> {
    await pushRun(system, model, run, [{ name: 'a.jsonl', content }]);
    return (await untilFinal(system, model, run)) as Judged;
  }

  async function rowsSeen(model: string): Promise<unknown> {
    return (await system.query(`SELECT count(*)::int AS rows, min(run) AS run FROM scores."${model}"`))[0];
  }

  it('keep a profile of each run, and show it beside that of the run before', async () => {
    const first = await push('plain', 'oct', scoreLines(1000));
    expect(first.profile).to.deep.include({ rows: 1000, min: 1, max: 1000, mean: 500.5 });
    expect(first.profile?.deciles).to.deep.equal([100, 200, 300, 400, 500, 600, 700, 800, 900]);
    expect(first.profile?.stddev).to.be.closeTo(288.675, 0.001);
    expect(first.previous).to.equal(null);
    const second = await push('plain', 'nov', scoreLines(900));
    expect(second.previous).to.deep.include({ run: 'oct', revision: 1 });
    expect(second.previous?.profile?.rows).to.equal(1000);
    expect(second.gates).to.deep.equal([]);
  });

  it('answer an act on an older revision with that revision', async () => {
    for (const revision of [1, 2, 3])
      expect(await push('acts', 'oct', `not JSON ${revision}\n`)).to.include({ state: 'failed', revision });
    for (const [method, act, state] of [
      ['POST', '/retry', 'queued'],
      ['DELETE', '', 'cancelled'],
    ] as const) {
      const answer = await system.request(method, `${runPath('acts', 'oct')}${act}?revision=2`, {
        token: operator,
      });
      expect(await answer.json()).to.include({ revision: 2, state });
      await eventually(
        async () =>
          (
            await system.query(`SELECT state FROM ingest.run_revision WHERE model = 'acts' AND revision = 2`)
          )[0]?.state,
        (now) => now !== 'queued',
      );
    }
  });

  it('hold a run that breaks one, tell which, and publish it with force and a reason', async () => {
    await push('held', 'oct', scoreLines(1000));
    expect((await put('/v1/models/held', { maxRowChangePercent: 10, scoreMin: 0 })).status).to.equal(200);
    const run = await push('held', 'nov', scoreLines(500));
    expect(run.state).to.equal('held');
    expect(run.mayDo).to.include('publish');
    expect(run.gates).to.deep.equal([
      { gate: 'scoreMin', expected: 0, found: 1, broken: false },
      { gate: 'maxRowChangePercent', expected: 10, found: 50, broken: true },
    ]);
    expect(await rowsSeen('held')).to.deep.equal({ rows: 1000, run: 'oct' });

    const refused = await put('/v1/models/held/current', { run: 'nov', reason: 'let me' });
    expect(refused.status).to.equal(409);
    expect(((await refused.json()) as { detail: string }).detail).to.contain(
      'row count changed by 50 %; the contract allows 10 %',
    );
    const unexplained = await put('/v1/models/held/current', { run: 'nov', force: true });
    expect(unexplained.status).to.equal(400);
    const forced = await put('/v1/models/held/current', {
      run: 'nov',
      force: true,
      reason: 'half the customers left',
    });
    expect(forced.status).to.equal(200);
    expect(await forced.json()).to.have.nested.property('current.run', 'nov');
    expect(await rowsSeen('held')).to.deep.equal({ rows: 500, run: 'nov' });
    const [kept] = await system.query(
      `SELECT actor, detail->>'reason' AS reason, detail->'replaces'->>'run_key' AS before
       FROM ingest.audit_event WHERE action = 'publish' AND model = 'held'`,
    );
    expect(kept).to.deep.equal({ actor: 'olga', reason: 'half the customers left', before: 'oct' });
  });

  it('break on the range of scores, on too few rows, and on a shifted distribution', async () => {
    await push('shift', 'r1', scoreLines(1000));
    await put('/v1/models/shift', { scoreMin: 0, scoreMax: 2000, minRows: 900, maxScoreShiftPsi: 0.25 });
    const same = await push('shift', 'r2', scoreLines(1000, 1, 5));
    expect(same.state).to.equal('published');
    const moved = await push('shift', 'r3', scoreLines(1000, 1, 400));
    expect(moved.gates?.filter((gate) => gate.broken).map(({ gate }) => gate)).to.deep.equal([
      'maxScoreShiftPsi',
    ]);
    const wrong = await push('shift', 'r4', scoreLines(10, 5000));
    expect(wrong.gates?.filter((gate) => gate.broken).map(({ gate }) => gate)).to.deep.equal([
      'scoreMax',
      'minRows',
      'maxScoreShiftPsi',
    ]);
    expect(await rowsSeen('shift')).to.deep.equal({ rows: 1000, run: 'r2' });
  });

  it('roll back to a run in the time of one small transaction, and continue from there', async () => {
    await push('back', 'oct', scoreLines(10));
    await push('back', 'nov', scoreLines(20));
    const model = await system.request('GET', '/v1/models/back', { token: operator });
    const etag = model.headers.get('etag') ?? '';
    const startedMs = performance.now();
    const back = await put(
      '/v1/models/back/current',
      { run: 'oct', reason: 'nov is wrong' },
      { 'if-match': etag },
    );
    expect(performance.now() - startedMs).to.be.below(10_000); // some 10 ms on an idle machine
    expect(back.status).to.equal(200);
    expect(await rowsSeen('back')).to.deep.equal({ rows: 10, run: 'oct' });
    const stale = await put(
      '/v1/models/back/current',
      { run: 'nov', reason: 'no, good' },
      { 'if-match': etag },
    );
    expect(stale.status).to.equal(412);
    const again = await put('/v1/models/back/current', { run: 'oct', reason: 'twice is once' });
    expect(again.headers.get('etag')).to.equal(back.headers.get('etag'));
    await push('back', 'dec', scoreLines(30));
    expect(await rowsSeen('back')).to.deep.equal({ rows: 30, run: 'dec' });
  });

  it('never let a reader see two runs or none while publications go back and forth', async () => {
    await push('swing', 'a', scoreLines(10));
    await push('swing', 'b', scoreLines(20));
    let swinging = true;
    const wrong: unknown[] = [];
    let reads = 0;
    const reading = (async () => {
      while (swinging) {
        const seen = (await rowsSeen('swing')) as { rows: number; run: string };
        if (seen.rows !== (seen.run === 'a' ? 10 : 20)) wrong.push(seen);
        reads += 1;
      }
    })();
    for (let turn = 0; turn < 20; turn += 1) {
      const run = turn % 2 === 0 ? 'a' : 'b';
      expect((await put('/v1/models/swing/current', { run, reason: `turn ${turn}` })).status).to.equal(200);
    }
    swinging = false;
    await reading;
    expect(wrong).to.deep.equal([]);
    expect(reads).to.be.greaterThan(5);
  });

  it('are set by operators only, and refuse what makes no sense', async () => {
    const pusher = await system.request('PUT', '/v1/models/held', { json: {} });
    expect(pusher.status).to.equal(403);
    expect((await put('/v1/models/held', { scoreMin: 2, scoreMax: 1 })).status).to.equal(400);
    expect((await put('/v1/models/held', { minRow: 2 })).status).to.equal(400);
    expect((await put('/v1/models/fresh', { minRows: 5 })).headers.get('etag')).to.equal('"0"');
    const listed = await system.request('GET', '/v1/models', { token: operator });
    const { models } = (await listed.json()) as {
      models: { model: string; current: unknown; contract: unknown }[];
    };
    expect(models.find(({ model }) => model === 'fresh')).to.deep.include({
      contract: { minRows: 5 },
      current: null,
    });
  });

  it('leave a held run to be withdrawn, after which it can be pushed again', async () => {
    await put('/v1/models/gone', { minRows: 10 });
    const content = scoreLines(5);
    expect((await push('gone', 'r', content)).state).to.equal('held');
    const notTheirs = await system.request('DELETE', runPath('gone', 'r'));
    expect(notTheirs.status).to.equal(403);
    const withdrawn = await system.request('DELETE', `${runPath('gone', 'r')}?reason=too+short`, {
      token: operator,
    });
    expect(await withdrawn.json()).to.include({ state: 'cancelled' });
    await put('/v1/models/gone', {});
    const pushed = await push('gone', 'r', content);
    expect([pushed.revision, pushed.state]).to.deep.equal([2, 'published']);
    const published = await system.request('DELETE', runPath('gone', 'r'), { token: operator });
    expect(published.status).to.equal(409);
  });
});
