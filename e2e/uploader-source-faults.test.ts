import { appendFile, mkdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Ending, waitFor, watchPeaks } from './support/programs.ts';
import { type FaultProxy, startFaultProxy } from './support/proxies.ts';
import { type ScoreFile, writeScoreFile } from './support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const CHUNK_BYTES = 512 * 1024;

describe('uploader push, of files that change, vanish, or have odd names', () => {
  let system: TestSystem;
  let service: Service;
  let proxy: FaultProxy;
  let folder: string;
  let run = 0;

  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
  });
  after(() => system.stop());
  beforeEach(async () => {
    proxy = await startFaultProxy(service.port);
    run += 1;
    folder = join(system.workDir, `run-${run}`);
    await mkdir(folder);
  });
  afterEach(() => proxy.stop());

  const args = (more: string[] = []) => {
    const named = ['--model', 'churn', '--run', `run-${run}`, '--json'];
    return ['push', folder, ...named, '--chunk-size', String(CHUNK_BYTES), '--stall-timeout', '1s', ...more];
  };
  const push = (more?: string[]) => system.runUploader(proxy.url, args(more));
  const resultOf = ({ stdout }: Ending) => JSON.parse(stdout);
  const stateInService = async () => {
    const [row] = await system.query<{ state: string }>(
      `SELECT state FROM ingest.run_revision WHERE model = 'churn' AND run_key = $1`,
      [`run-${run}`],
    );
    return row?.state;
  };

  const changes: Array<[string, (file: ScoreFile) => Promise<void>]> = [
    ['grows', ({ path }) => appendFile(path, '{"pk":"late","score":1}\n')],
    ['is cut short', ({ path }) => truncate(path, CHUNK_BYTES * 2)],
    ['is deleted', ({ path }) => rm(path)],
    [
      'is replaced by another one of the same size',
      async ({ path, bytes }) => {
        await writeFile(`${path}.tmp`, Buffer.alloc(bytes, '\n'));
        await rename(`${path}.tmp`, path);
      },
    ],
  ];
  for (const [what, change] of changes) {
    it(`ends with 66 when a file ${what} while it is sent, and nothing half-good is queued`, async () => {
      const file = await writeScoreFile(join(folder, 'a.jsonl'), 100_000, run);
      await writeScoreFile(join(folder, 'b.jsonl'), 100, run + 1000);
      proxy.plan([{ on: 'PATCH', fault: { do: 'fall_silent', afterBytes: CHUNK_BYTES / 2 } }]);
      // One at a time, so that it is a.jsonl that stalls.
      const pushing = system.startUploader(proxy.url, args(['--transfers', '1']));
      await waitFor('half a chunk', () => proxy.receivedBytes() >= CHUNK_BYTES / 2, 30_000);
      await change(file);
      const ending = await pushing.ended;
      expect(ending.code, ending.stderr).to.equal(66);
      expect(resultOf(ending).runs[0].error.detail).to.include('a.jsonl');
      expect(await stateInService()).to.equal('receiving');
    });
  }

  it('ends with 66, and asks the service nothing, when there is nothing that can be read', async () => {
    expect((await push()).code).to.equal(66);
    await symlink('b.jsonl', join(folder, 'a.jsonl'));
    await symlink('a.jsonl', join(folder, 'b.jsonl'));
    const circle = await push();
    expect(circle.code).to.equal(66);
    expect(circle.stderr).to.include('form a loop');
    await rm(join(folder, 'b.jsonl'));
    const dangling = await push();
    expect(dangling.code).to.equal(66);
    expect(dangling.stderr).to.include('it does not exist');
    await rm(join(folder, 'a.jsonl'));
    await mkdir(join(folder, 'a.jsonl'));
    expect((await push()).code).to.equal(66);
    expect(proxy.requests).to.deep.equal([]);
  });

  it('is not led in circles by a folder that links to itself', async () => {
    await writeScoreFile(join(folder, 'a.jsonl'), 10, run);
    await symlink('.', join(folder, 'again'));
    const { code, stdout, stderr } = await push();
    expect(code, stderr).to.equal(66);
    expect(stdout + stderr).to.include('again/a.jsonl: it is in a folder below the layout');
    const ignored = await push(['--ignore', 'again']);
    expect(ignored.code, ignored.stderr).to.equal(0);
  });

  it('sends files with spaces, unicode, percent signs and quotes in their names, and empty ones', async () => {
    const names = ['a b.jsonl', 'ümlaut-日本.jsonl', '100%41.jsonl', 'it\'s "x".ndjson', '#?&=;.json'];
    for (const [index, name] of names.entries()) {
      await writeScoreFile(join(folder, name), 10, run * 100 + index);
    }
    await writeFile(join(folder, 'empty.jsonl'), '');
    const ending = await push();
    expect(ending.code, ending.stderr).to.equal(0);
    expect(resultOf(ending).runs[0]).to.include({ state: 'published', rows: 50 });
    const files = await system.query<{ name: string }>(
      `SELECT f.name FROM ingest.run_file f JOIN ingest.run_revision r USING (revision_id) WHERE r.run_key = $1`,
      [`run-${run}`],
    );
    expect(files.map(({ name }) => name)).to.have.members([...names, 'empty.jsonl']);
  });

  it('sends a thousand small files, several at a time, in little memory, asking no more than it must', async function () {
    this.timeout(400_000);
    const count = 1000;
    for (let index = 0; index < count; index += 1) {
      await writeFile(join(folder, `part-${index}.jsonl`), `{"pk":"${index}","score":${index}}\n`);
    }
    const pushing = system.startUploader(proxy.url, args());
    const { peaks, stop } = watchPeaks({ uploader: pushing.pid });
    const ending = await pushing.ended;
    stop();
    expect(ending.code, ending.stderr).to.equal(0);
    expect(resultOf(ending).runs[0]).to.include({ rows: count });
    expect(proxy.mostAtOnce()).to.equal(4);
    expect(peaks.uploader, 'MB resident').to.be.within(20, 200);
    const asked = (verb: string) => proxy.requests.filter((request) => request.startsWith(verb)).length;
    expect(asked('PATCH')).to.equal(count);
    // Looks at the whole run, of which each answer names every file.
    expect(asked('GET')).to.be.below(50);
  });
});
