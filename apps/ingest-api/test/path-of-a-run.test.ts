import { expect } from 'chai';
import {
  declare,
  getRun,
  listFiles,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

describe('the path of a run', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
    system.startLoader();
  });
  after(() => system.stop());

  it('publishes what was pushed, every row of every file', async () => {
    await pushRun(system, 'churn', '2026-11', [
      { name: 'a.jsonl', content: scoreLines(1000, 1) },
      { name: 'b.jsonl', content: scoreLines(500, 5001, 0.5) },
    ]);
    const run = await untilFinal(system, 'churn', '2026-11');
    expect(run.state).to.equal('published');
    expect(run.rows).to.equal(1500);
    const [seen] = await system.query(
      'SELECT count(*)::int AS rows, sum(score) AS total, min(run) AS run FROM scores.churn',
    );
    expect(seen).to.deep.equal({ rows: 1500, total: 500500 + (5001 + 5500) * 250 + 250, run: '2026-11' });
  });

  it('makes no new revision of the same content, and a new one of changed content', async () => {
    const files = [{ name: 'a.jsonl', content: scoreLines(100) }];
    await pushRun(system, 'fraud', 'r1', files);
    expect((await untilFinal(system, 'fraud', 'r1')).revision).to.equal(1);
    expect((await pushRun(system, 'fraud', 'r1', files)).revision).to.equal(1);
    const changed = await pushRun(system, 'fraud', 'r1', [
      { name: 'a.jsonl', content: scoreLines(100, 1, 7) },
    ]);
    expect(changed.revision).to.equal(2);
    await untilFinal(system, 'fraud', 'r1');
    const states = await system.query(
      `SELECT revision, state FROM ingest.run_revision WHERE model = 'fraud' ORDER BY revision`,
    );
    expect(states).to.deep.equal([
      { revision: 1, state: 'superseded' },
      { revision: 2, state: 'published' },
    ]);
    const [seen] = await system.query(`SELECT score FROM scores.fraud WHERE pk = '1'`);
    expect(seen).to.deep.equal({ score: 8 });
  });

  it('fails a run with bad lines, naming each, and leaves the published run alone', async () => {
    await pushRun(system, 'risk', 'good', [{ name: 'a.jsonl', content: scoreLines(10) }]);
    await untilFinal(system, 'risk', 'good');
    const content = `${scoreLines(3)}{"pk":"x"}\n\n{"pk":"y","score":"high"}\n`;
    await pushRun(system, 'risk', 'bad', [{ name: 'a.jsonl', content }]);
    const run = await untilFinal(system, 'risk', 'bad');
    expect(run.state).to.equal('failed');
    expect(run.error).to.include({ code: 'bad_lines', file: 'a.jsonl', line: 4 });
    expect(run.rejects.total).to.equal(2);
    expect(run.rejects.first.map(({ line, code }) => [line, code])).to.deep.equal([
      [4, 'missing_score'],
      [6, 'invalid_score'],
    ]);
    const [seen] = await system.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.risk');
    expect(seen).to.deep.equal({ rows: 10, run: 'good' });
    const partitions = await system.query(
      `SELECT 1 FROM pg_class WHERE relname LIKE 'risk$%' AND relkind = 'r'`,
    );
    expect(partitions).to.have.length(1);
  });

  it('fails a run in which a key occurs twice, and names it', async () => {
    await pushRun(system, 'risk', 'twice', [
      { name: 'a.jsonl', content: scoreLines(5, 1) },
      { name: 'b.jsonl', content: scoreLines(5, 4) },
    ]);
    const run = await untilFinal(system, 'risk', 'twice');
    expect(run.state).to.equal('failed');
    expect(run.error?.code).to.equal('duplicate_keys');
    expect(run.error?.detail).to.contain(
      '2 keys occur more than once in this run: "4" (2 times), "5" (2 times).',
    );
  });

  it('fails a run without a single row', async () => {
    await pushRun(system, 'risk', 'empty', [
      { name: 'a.jsonl', content: '' },
      { name: 'b.jsonl', content: '\n \n' },
    ]);
    expect((await untilFinal(system, 'risk', 'empty')).error?.code).to.equal('no_rows');
  });

  it('loads an older run without taking the newer one away', async () => {
    await pushRun(system, 'order', 'november', [{ name: 'a.jsonl', content: scoreLines(2) }], {
      as_of: '2026-11-01T00:00:00Z',
    });
    await untilFinal(system, 'order', 'november');
    await pushRun(system, 'order', 'october', [{ name: 'a.jsonl', content: scoreLines(3) }], {
      as_of: '2026-10-01T00:00:00Z',
    });
    expect((await untilFinal(system, 'order', 'october')).state).to.equal('superseded');
    expect((await getRun(system, 'order', 'november')).state).to.equal('published');
    expect(await system.query('SELECT DISTINCT run FROM scores."order"')).to.deep.equal([
      { run: 'november' },
    ]);
  });

  it('does not ask again for content that another revision has sent, even half of it', async () => {
    const big = { name: 'big.jsonl', content: scoreLines(1000) };
    const first = await pushRun(system, 'share', 'r', [
      big,
      { name: 'small.jsonl', content: scoreLines(1, 5000) },
    ]);
    await untilFinal(system, 'share', 'r');
    const second = await pushRun(system, 'share', 'r', [
      big,
      { name: 'small.jsonl', content: scoreLines(2, 5000) },
    ]);
    expect(second.files).to.deep.equal({ total: 2, received: 1, stalled: 0 });
    const [bigAgain] = await listFiles(system, 'share', 'r');
    expect(bigAgain).to.include({ state: 'received', uploadUrl: first.missing.files[0]?.uploadUrl });
    expect((await untilFinal(system, 'share', 'r')).rows).to.equal(1002);
  });

  it('asks again for a file whose bytes are not what was declared', async () => {
    const content = scoreLines(4);
    const declared = await declare(system, 'torn', 'r', [{ name: 'a.jsonl', content }]);
    await patch(
      system,
      declared.missing.files[0]?.uploadUrl ?? '',
      0,
      Buffer.from(content.replace('"1"', '"9"')),
    );
    expect((await untilFinal(system, 'torn', 'r')).error?.code).to.equal('content_mismatch');
    const again = await pushRun(system, 'torn', 'r', [{ name: 'a.jsonl', content }]);
    expect(again.revision).to.equal(2);
    expect((await untilFinal(system, 'torn', 'r')).state).to.equal('published');
  });
});
