import { expect } from 'chai';
import { pushRun, runPath, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

interface Reject {
  readonly file: string;
  readonly line: number;
  readonly byte_offset: number;
  readonly code: string;
  readonly detail: string;
  readonly excerpt: string;
}

describe('lines that are refused', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    system.startLoader();
  });
  after(() => system.stop());

  async function rejectsOf(model: string, run: string): Promise<Reject[]> {
    const answer = await system.request('GET', `${runPath(model, run)}/rejects`);
    expect(answer.status).to.equal(200);
    expect(answer.headers.get('content-type')).to.contain('application/x-ndjson');
    const text = await answer.text();
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line));
  }

  async function allow(model: string, maxRejectedLines: number): Promise<void> {
    const answer = await system.request('PUT', `/v1/models/${model}`, {
      json: { maxRejectedLines },
      token: operator,
    });
    expect(answer.status).to.equal(200);
  }

  it('are all counted, and the first 1,000 listed with file, line, byte and excerpt', async () => {
    const bad = '{"pk":"x"}\n'.repeat(1_200);
    await pushRun(system, 'churn', 'many', [
      { name: 'a.jsonl', content: scoreLines(3) },
      { name: 'b.jsonl', content: `${scoreLines(1, 10)}${bad}{"pk":"\u0001","score":1}\n` },
    ]);
    const run = await untilFinal(system, 'churn', 'many');
    expect(run.state).to.equal('failed');
    expect(run.rejects.total).to.equal(1_201);
    expect(run.rejects.byCode).to.deep.equal({ missing_score: 1_200, invalid_json: 1 });
    const rejects = await rejectsOf('churn', 'many');
    expect(rejects).to.have.length(1_000);
    const firstLineBytes = scoreLines(1, 10).length;
    expect(rejects[0]).to.deep.include({ file: 'b.jsonl', line: 2, byte_offset: firstLineBytes });
    expect(rejects[999]).to.deep.include({ line: 1_001, excerpt: '{"pk":"x"}' });
  });

  it('are left out and listed when the contract of the model allows that many', async () => {
    await allow('risk', 2);
    const content = `${scoreLines(3)}{"pk":"x"}\n${scoreLines(2, 10)}{"pk":"y","score":"high"}\n`;
    await pushRun(system, 'risk', 'two', [{ name: 'a.jsonl', content }]);
    const run = await untilFinal(system, 'risk', 'two');
    expect([run.state, run.rows, run.rejects.total]).to.deep.equal(['published', 5, 2]);
    expect((await rejectsOf('risk', 'two')).map(({ line, code }) => [line, code])).to.deep.equal([
      [4, 'missing_score'],
      [7, 'invalid_score'],
    ]);
    const [seen] = await system.query('SELECT count(*)::int AS rows FROM scores.risk');
    expect(seen).to.deep.equal({ rows: 5 });

    await pushRun(system, 'risk', 'three', [{ name: 'a.jsonl', content: `${content}{}\n` }]);
    const tooMany = await untilFinal(system, 'risk', 'three');
    expect(tooMany.state).to.equal('failed');
    expect(tooMany.error?.detail).to.contain("The model's contract allows 2 bad lines.");
  });

  it('are loaded again by retry when the contract has changed meanwhile', async () => {
    await pushRun(system, 'later', 'r', [{ name: 'a.jsonl', content: `${scoreLines(3)}{}\n` }]);
    expect((await untilFinal(system, 'later', 'r')).state).to.equal('failed');
    await allow('later', 1);
    const retry = await system.request('POST', `${runPath('later', 'r')}/retry`, {
      json: { reason: 'one line does not matter' },
      token: operator,
    });
    expect(retry.status).to.equal(200);
    const run = await untilFinal(system, 'later', 'r');
    expect([run.state, run.rows, run.load?.attempt]).to.deep.equal(['published', 3, 2]);
    const again = await system.request('POST', `${runPath('later', 'r')}/retry`, {
      json: {},
      token: operator,
    });
    expect(again.status).to.equal(409);
  });

  it('of duplicate keys name each place where it occurs', async () => {
    const first = scoreLines(5, 1);
    const second = `${scoreLines(2, 100)}{"score":7,"pk":"4"}\n{"pk":"\\u0035","score":1}\n{"pk":"5","score":2}`;
    await pushRun(system, 'twice', 'r', [
      { name: 'a.jsonl', content: first },
      { name: 'b.jsonl', content: second },
    ]);
    const run = await untilFinal(system, 'twice', 'r');
    expect(run.error?.code).to.equal('duplicate_keys');
    expect(run.rejects.total).to.equal(5);
    expect(run.rejects.byCode).to.deep.equal({ duplicate_key: 5 });
    const line = (text: string, n: number) =>
      text
        .split('\n')
        .slice(0, n - 1)
        .join('\n').length + (n > 1 ? 1 : 0);
    expect(
      (await rejectsOf('twice', 'r')).map(({ file, line, byte_offset, detail }) => [
        file,
        line,
        byte_offset,
        detail,
      ]),
    ).to.deep.equal([
      ['a.jsonl', 4, line(first, 4), 'The key "4" occurs 2 times in this run.'],
      ['b.jsonl', 3, line(second, 3), 'The key "4" occurs 2 times in this run.'],
      ['a.jsonl', 5, line(first, 5), 'The key "5" occurs 3 times in this run.'],
      ['b.jsonl', 4, line(second, 4), 'The key "5" occurs 3 times in this run.'],
      ['b.jsonl', 5, line(second, 5), 'The key "5" occurs 3 times in this run.'],
    ]);
  });

  it('are listed also when the run fails for another reason than their number', async () => {
    await allow('both', 10);
    await pushRun(system, 'both', 'twice', [
      { name: 'a.jsonl', content: `{"pk":"x"}\n${scoreLines(2)}${scoreLines(1)}` },
    ]);
    const twice = await untilFinal(system, 'both', 'twice');
    expect(twice.error?.code).to.equal('duplicate_keys');
    expect(twice.rejects).to.deep.include({ total: 3, byCode: { missing_score: 1, duplicate_key: 2 } });
    expect((await rejectsOf('both', 'twice')).map(({ line }) => line)).to.deep.equal([1, 2, 4]);

    await pushRun(system, 'both', 'none', [{ name: 'a.jsonl', content: 'no\n\nno\n' }]);
    const none = await untilFinal(system, 'both', 'none');
    expect(none.error?.code).to.equal('no_rows');
    expect((await rejectsOf('both', 'none')).map(({ line }) => line)).to.deep.equal([1, 3]);
  });

  it('of long keys are described without the whole key in each sentence', async () => {
    const line = `{"pk":"${'😀'.repeat(500)}","score":1}\n`;
    await pushRun(system, 'long', 'r', [{ name: 'a.jsonl', content: `${line}${line}` }]);
    const run = await untilFinal(system, 'long', 'r');
    const shown = `"${'😀'.repeat(100)}…"`;
    expect(run.error?.detail).to.contain(`: ${shown} (2 times). Each`);
    expect((await rejectsOf('long', 'r'))[0]?.detail).to.equal(
      `The key ${shown} occurs 2 times in this run.`,
    );
  });

  it('are a 404 for a run that does not exist', async () => {
    const answer = await system.request('GET', `${runPath('twice', 'missing')}/rejects`);
    expect(answer.status).to.equal(404);
  });
});
