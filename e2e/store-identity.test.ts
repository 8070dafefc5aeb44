import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Ending, runProgram, waitFor } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

interface Marker {
  storeId: string;
  generation: number;
}

/** A folder that was not mounted, or is another one, must not make the service forget what it has acknowledged. */
describe('a folder that is not the store of the database', () => {
  let system: TestSystem;
  let service: Service;
  let folder: string;
  before(async () => {
    system = await startTestSystem();
    folder = join(system.workDir, 'uploads');
    service = await system.startService();
  });
  after(() => system.stop());

  const env = (dataDir: string) => ({
    DATABASE_URL: system.databaseUrl,
    INGEST_DATA_DIR: dataDir,
    INGEST_PORT: '0',
  });
  const marker = async (dir: string) => JSON.parse(await readFile(join(dir, 'store.json'), 'utf8')) as Marker;
  const ready = async () => (await fetch(`${service.url}/readyz`)).status;

  async function push(model: string, ...flags: string[]): Promise<Ending> {
    const dir = join(system.workDir, 'out', model);
    await mkdir(join(dir, model, '2026-11'), { recursive: true });
    await writeFile(join(dir, model, '2026-11', 'a.jsonl'), `{"pk":"${model}","score":1}\n`);
    return system.runUploader(service.url, ['push', dir, '--json', ...flags]);
  }

  /** What the database says of runs and uploads: a refusal changes nothing of it. */
  const rows = () =>
    system.query(`
      SELECT r.model, r.state, u.offset_bytes::int AS bytes, u.removed_at IS NULL AS is_kept
      FROM ingest.run_revision r JOIN ingest.run_file f USING (revision_id) JOIN ingest.upload u USING (upload_id)
      ORDER BY r.model`);

  async function expectRefused(dataDir: string, ...words: string[]): Promise<void> {
    const before = await rows();
    for (const command of ['serve', 'load']) {
      const { code, stderr } = await runProgram('ingest-api', [command], env(dataDir));
      expect(code, `${command}: ${stderr}`).to.equal(2);
      for (const word of [...words, 'Nothing was changed', 'ingest-api store adopt'])
        expect(stderr).to.contain(word);
    }
    expect(await rows()).to.deep.equal(before);
  }

  it('is refused by serve and load, which say both ids: an empty one, one of another database, an older copy', async () => {
    expect((await push('queued', '--no-wait')).code).to.equal(0);
    const { storeId } = await marker(folder);
    const [row] = await system.query<{ store_id: string }>('SELECT store_id FROM ingest.store');
    expect(row?.store_id).to.equal(storeId);

    await mkdir(join(system.workDir, 'empty'));
    await expectRefused(join(system.workDir, 'empty'), 'has no marker of a store', storeId);

    const other = join(system.workDir, 'other');
    const otherId = 'ffffffff-0000-4000-8000-000000000000';
    await mkdir(other);
    await writeFile(join(other, 'store.json'), JSON.stringify({ storeId: otherId, generation: 99 }));
    await expectRefused(other, otherId, storeId);

    const copy = join(system.workDir, 'copy');
    await cp(folder, copy, { recursive: true });
    await service.kill('SIGTERM');
    service = await system.startService({ port: service.port });
    await waitFor('the service to be ready', async () => (await ready()) === 200);
    await waitFor(
      'the store to be newer than the copy',
      async () => (await marker(folder)).generation > (await marker(copy)).generation,
    );
    await expectRefused(copy, storeId, 'older copy');
  });

  it('makes the service unready while it runs, and nothing is concluded from it', async () => {
    const before = await rows();
    await rename(folder, `${folder}.away`);
    await mkdir(folder);
    await waitFor('the service to say so', async () => (await ready()) === 503);
    const answer = (await (await fetch(`${service.url}/readyz`)).json()) as { code: string; detail: string };
    expect(answer).to.include({ code: 'storage_fault' });
    expect(answer.detail).to.contain('no longer has the marker of a store');
    const sent = await push('unmounted', '--no-wait', '--max-duration', '2s');
    expect(sent.code, sent.stderr).to.equal(75);
    const loader = system.startLoader();
    expect((await loader.ended).code, 'a loader that starts now').to.equal(2);
    expect((await rows()).filter(({ model }: { model?: string }) => model === 'queued')).to.deep.equal(
      before,
    );
    await rm(folder, { recursive: true });
    await rename(`${folder}.away`, folder);
    await waitFor('the service to be ready', async () => (await ready()) === 200);
    expect((await push('unmounted', '--no-wait')).code).to.equal(0);
  });

  it('is adopted after a restore: what is missing in it is sent again by the same push, and the audit says why', async () => {
    await service.kill('SIGTERM');
    const adopted = join(system.workDir, 'restored');
    await mkdir(adopted);
    const nothing = await runProgram('ingest-api', ['store', 'adopt'], env(adopted));
    expect(nothing.code, 'a reason is asked for').to.equal(2);
    const { code, stdout, stderr } = await runProgram(
      'ingest-api',
      ['store', 'adopt', '--reason', 'the disk was lost'],
      env(adopted),
    );
    expect(code, stderr).to.equal(0);
    expect(stdout).to.contain('0 of ').and.to.contain('2 upload(s) lack bytes');
    expect(
      (await rows()).map(({ state, bytes }: { state?: string; bytes?: number }) => [state, bytes]),
    ).to.deep.equal([
      ['receiving', 0],
      ['receiving', 0],
    ]);
    await expectRefused(folder, 'older copy');
    service = await system.startService({ env: { INGEST_DATA_DIR: adopted } });
    system.startLoader({ INGEST_DATA_DIR: adopted });
    for (const model of ['queued', 'unmounted']) {
      const pushed = await push(model);
      expect(pushed.code, pushed.stderr).to.equal(0);
      expect(JSON.parse(pushed.stdout)).to.include({ result: 'published' });
    }
    const [event] = await system.query<{ detail: { reason: string } }>(
      `SELECT detail FROM ingest.audit_event WHERE action = 'adopt_store'`,
    );
    expect(event?.detail.reason).to.equal('the disk was lost');
  });
});
