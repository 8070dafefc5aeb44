import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { connect, openDatabase } from 'db-schema';
import { loadServeConfig } from '../src/config.ts';
import { retireRevisions } from '../src/load/retention.ts';
import { removeFiles } from '../src/runs/expiry.ts';
import { folderStore } from '../src/store/folder.ts';
import {
  declare,
  getRun,
  manifestOf,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });
const LIMITS = { maxRows: 1_000, maxBytes: 100_000 };

/** What one token, or one model, may take of the disks and of the queue. */
describe('the share of a token', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem({ runLimits: LIMITS, guard: { ...guard, maxTokenBytes: 300_000 } });
    operator = await system.createToken({ name: 'operator', scopes: ['operate', 'push'] });
  });
  after(() => system.stop());

  const contract = (model: string, json: unknown) =>
    system.request('PUT', `/v1/models/${model}`, { json, token: operator });
  const put = (model: string, run: string, content: string) =>
    system.request('PUT', runPath(model, run), { json: manifestOf([{ name: 'a.jsonl', content }]) });
  const partitionsOf = async (model: string) =>
    (await system.query(`SELECT FROM pg_class WHERE relkind = 'r' AND relname LIKE $1`, [`${model}$%`]))
      .length;

  it('is bounded by rows and bytes of a run, before it is sent: by default, and as its contract says', async () => {
    for (const [content, found] of [
      [scoreLines(1_001), '1001 lines; 1000 are allowed (maxRows)'],
      [`{"pk":"1","score":1,"x":"${'y'.repeat(100_000)}"}\n`, 'bytes; 100000 are allowed (maxBytes)'],
    ] as const) {
      const refused = await put('bounded', 'r', content);
      expect(refused.status).to.equal(413);
      expect(await refused.json())
        .to.have.property('detail')
        .that.contains(found);
    }
    expect((await contract('bounded', { maxRows: 2_000 })).status).to.equal(200);
    expect((await put('bounded', 'r', scoreLines(1_001))).status).to.equal(201);
    expect((await contract('bounded', { maxRows: 10 })).status).to.equal(200);
    expect((await put('bounded', 'r2', scoreLines(11))).status).to.equal(413);
    const base64 = (text: string) => Buffer.from(text).toString('base64');
    const posted = await system.request('POST', '/v1/uploads', {
      headers: {
        'tus-resumable': '1.0.0',
        'upload-length': '100001',
        'upload-metadata': `model ${base64('bounded')},run ${base64('posted')},filename ${base64('a.jsonl')}`,
      },
    });
    expect(posted.status).to.equal(413);
  });

  it('is bounded while a run is loaded, when its files expand to more than they say', async () => {
    const loader = system.startLoader({ runLimits: LIMITS });
    const bombs: [string, string, string][] = [
      ['wide', `{"pk":"1","score":1,"x":"${'y'.repeat(900_000)}"}\n`, 'more than 100000 bytes of lines'],
      ['long', scoreLines(3_000), 'more than 1000 rows'],
    ];
    expect((await contract('long', { maxBytes: 10_000_000 })).status).to.equal(200);
    for (const [model, text, found] of bombs) {
      const content = gzipSync(text);
      await pushRun(system, model, 'r', [
        { name: 'a.jsonl', content: scoreLines(1, 5_000) },
        { name: 'b.jsonl.gz', content },
      ]);
      const run = await untilFinal(system, model, 'r');
      expect(run.state, model).to.equal('failed');
      expect(run.error).to.include({ code: 'too_large', file: 'b.jsonl.gz' });
      expect(run.error?.detail).to.contain(found).and.to.contain('--max-rows');
      expect(await partitionsOf(model)).to.equal(0);
    }
    await loader.stop();
  });

  it('counts what is on the disk, whatever became of the run, until it is removed', async () => {
    const big = (character: string) => [{ name: 'a.jsonl', content: character.repeat(90_000) }];
    const token = await system.createToken({ name: 'redeclarer' });
    const asHim: TestSystem = { ...system, token, url: system.url };
    for (const character of ['a', 'b', 'c']) await pushRun(asHim, 'disk', 'r', big(character));
    const refused = await system.request('PUT', runPath('disk', 'r'), { json: manifestOf(big('d')), token });
    expect(refused.status).to.equal(507);
    expect(await refused.json())
      .to.have.property('detail')
      .that.contains('would have 360000 bytes on the disk, 90000 of them new; its quota is 300000');
    // The older contents were replaced: an hour after their last byte they are removed, and no longer counted.
    await system.query(
      `UPDATE ingest.upload SET last_progress_at = now() - interval '61 minutes' WHERE model = 'disk'`,
    );
    await system.query(
      `UPDATE ingest.run_revision SET declared_at = now() - interval '61 minutes' WHERE model = 'disk'`,
    );
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      onIdleError: () => {},
    });
    const week = 7 * 24 * 60 * 60 * 1000;
    const { removedFiles } = await removeFiles(db, folderStore(system.dataDir), {
      keepFilesMs: week,
      expireUploadsMs: week,
    });
    await db.destroy();
    expect(removedFiles).to.equal(2);
    await declare(asHim, 'disk', 'r', big('d'));
  });

  it('leaves no partition that nobody can publish: older held contents of a run, and many held runs', async () => {
    expect((await contract('held', { scoreMax: 0, keepRevisions: 1 })).status).to.equal(200);
    const loader = system.startLoader({ runLimits: LIMITS });
    for (let content = 1; content <= 6; content += 1) {
      await pushRun(system, 'held', 'r', [{ name: 'a.jsonl', content: scoreLines(content) }]);
      expect((await untilFinal(system, 'held', 'r')).state).to.equal('held');
    }
    const runs = Array.from({ length: 13 }, (_, index) => `r${index}`);
    for (const run of runs) await pushRun(system, 'held', run, [{ name: 'a.jsonl', content: scoreLines(1) }]);
    for (const run of runs) expect((await untilFinal(system, 'held', run)).state).to.equal('held');
    await loader.stop();
    const client = await connect({
      databaseUrl: system.databaseUrl,
      role: 'ingest_loader',
      applicationName: 'test',
    });
    await retireRevisions(client, 1_000);
    await client.end();
    expect(await partitionsOf('held')).to.equal(12 + 1); // held, and the one that keepRevisions keeps
    expect((await getRun(system, 'held', 'r12')).state).to.equal('held');
  });

  it('of the queue is a turn: 30 runs of one model, or of one token, delay another one by the load that is running', async () => {
    const one = await system.createToken({ name: 'one', scopes: ['push', 'read'] });
    const asOne: TestSystem = { ...system, token: one, url: system.url };
    for (let run = 0; run < 15; run += 1) {
      await pushRun(asOne, 'many', `r${run}`, [{ name: 'a.jsonl', content: scoreLines(1) }]);
      await pushRun(asOne, `many_${run}`, 'r', [{ name: 'a.jsonl', content: scoreLines(1) }]);
    }
    await pushRun(system, 'few', 'r', [{ name: 'a.jsonl', content: scoreLines(1) }]);
    await pushRun(asOne, 'last', 'r', [{ name: 'a.jsonl', content: scoreLines(1) }]);
    const loader = system.startLoader({ runLimits: LIMITS });
    for (const model of ['few', 'last', 'many_14']) await untilFinal(system, model, 'r');
    for (let run = 0; run < 15; run += 1) await untilFinal(system, 'many', `r${run}`);
    await loader.stop();
    const order = await system.query<{ model: string }>(
      `SELECT r.model FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id)
       WHERE r.model ~ '^(many|few|last)' ORDER BY a.attempt_id`,
    );
    const place = (model: string) => order.findIndex((load) => load.model === model) + 1;
    expect(place('few'), 'another token').to.be.at.most(2);
    // Every model has had a turn before the first one has its second.
    const secondOfMany = order.findIndex(
      (load, index) => load.model === 'many' && index > order.findIndex(({ model }) => model === 'many'),
    );
    expect(place('last'), 'another model').to.be.at.most(secondOfMany);
  });
});
