import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { startTcpProxy } from '../../../e2e/support/proxies.ts';
import { writeScoreFile } from '../../../e2e/support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from '../../../e2e/support/test-system.ts';
import { lastLine } from './support/run-uploader.ts';
import { waitUntil } from './support/wait-until.ts';

describe('uploader push, to the real service', () => {
  let system: TestSystem;
  let service: Service;

  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
  });
  after(() => system.stop());

  const push = (args: string[], url = service.url) => system.runUploader(url, ['push', ...args, '--json']);

  it('publishes a run; the same again sends nothing; a line more is a new revision', async () => {
    const dir = join(system.workDir, 'one');
    const { lines, bytes, path } = await writeScoreFile(join(dir, 'churn/2026-11/part-1.jsonl'), 20_000, 1);
    const first = await push([dir]);
    expect(first.code, first.stderr).to.equal(0);
    expect(JSON.parse(lastLine(first.stdout)).runs[0]).to.include({
      state: 'published',
      rows: lines,
      bytesSent: bytes,
    });

    const again = await push([dir]);
    expect(again.code).to.equal(0);
    expect(JSON.parse(lastLine(again.stdout)).runs[0]).to.include({ revision: 1, bytesSent: 0 });

    appendFileSync(path, '{"pk":"one more","score":1}\n');
    const changed = await push([dir]);
    expect(changed.code, changed.stderr).to.equal(0);
    expect(JSON.parse(lastLine(changed.stdout)).runs[0]).to.include({ revision: 2, rows: lines + 1 });
  });

  it('sends more files than an answer lists, asking for them page by page, and says so in a dry run', async () => {
    const dir = join(system.workDir, 'many');
    mkdirSync(join(dir, 'churn/many'), { recursive: true });
    const files = 250;
    for (let file = 0; file < files; file++)
      writeFileSync(join(dir, `churn/many/part-${file}.jsonl`), `{"pk":"${file}","score":1}\n`);
    const pushed = await push([dir]);
    expect(pushed.code, pushed.stderr).to.equal(0);
    expect(JSON.parse(lastLine(pushed.stdout)).runs[0]).to.include({ state: 'published', rows: files });
    const planned = await push([dir, '--dry-run']);
    expect(JSON.parse(lastLine(planned.stdout)).runs[0]).to.include({
      files,
      wouldSendBytes: 0,
      newRevision: false,
    });
  });

  it('killed in mid transfer, and run again without its state, sends only the rest', async () => {
    const dir = join(system.workDir, 'two');
    const { bytes } = await writeScoreFile(join(dir, 'part-1.jsonl'), 400_000, 2);
    const proxy = await startTcpProxy(service.port);
    try {
      const args = [dir, '--model', 'fraud', '--run', 'killed/at +40 %', '--json'];
      const first = system.startUploader(proxy.url, ['push', ...args]);
      await waitUntil('two fifths are sent', () => proxy.sentBytes() > bytes * 0.4);
      proxy.stall();
      await first.kill('SIGKILL');
      proxy.restore();
      const second = await system.runUploader(proxy.url, ['push', ...args], { HOME: '/dev/null' });
      expect(second.code, second.stderr).to.equal(0);
      const run = JSON.parse(lastLine(second.stdout)).runs[0];
      expect(run).to.include({ state: 'published', rows: 400_000 });
      expect(run.bytesSent).to.be.lessThan(bytes * 0.7);
    } finally {
      await proxy.stop();
    }
  });

  it('survives a service that is killed in mid transfer and restarted', async () => {
    const dir = join(system.workDir, 'outlives');
    const { bytes } = await writeScoreFile(join(dir, 'churn/outlives/part-1.jsonl'), 400_000, 6);
    const mortal = await system.startService();
    const proxy = await startTcpProxy(mortal.port);
    try {
      const pushing = system.startUploader(proxy.url, [
        'push',
        dir,
        '--json',
        '--chunk-size',
        '4MiB',
        '--compress',
        'off',
      ]);
      await waitUntil('two fifths are sent', () => proxy.sentBytes() > bytes * 0.4);
      await mortal.kill('SIGKILL');
      await system.startService({ port: mortal.port });
      const { code, stdout, stderr } = await pushing.ended;
      expect(code, stderr).to.equal(0);
      expect(stderr)
        .to.match(/retrying until .*\d\d:\d\d.* UTC/)
        .and.match(/answers again, after \d+ failed tr/);
      const run = JSON.parse(lastLine(stdout)).runs[0];
      expect(run.state).to.equal('published');
      // A chunk that was sent and not acknowledged is all that a kill can cost.
      expect(run.bytesSent).to.be.at.most(bytes + 4 * 2 ** 20);
    } finally {
      await proxy.stop();
    }
  });

  it('may run twice at the same time: both end well, and little is sent twice', async () => {
    const dir = join(system.workDir, 'twice');
    const { bytes } = await writeScoreFile(join(dir, 'churn/twice/part-1.jsonl'), 400_000, 5);
    const both = await Promise.all([push([dir]), push([dir])]);
    for (const { code, stderr } of both) expect(code, stderr).to.equal(0);
    const sent = both.map(({ stdout }) => JSON.parse(lastLine(stdout)).runs[0].bytesSent);
    expect(sent[0] + sent[1], String(sent)).to.be.lessThan(bytes * 2);
  });

  it('may lose its state folder in mid transfer, and meet another uploader that knows nothing of it', async () => {
    const dir = join(system.workDir, 'forgetful');
    const { bytes } = await writeScoreFile(join(dir, 'churn/forgetful/part-1.jsonl'), 400_000, 7);
    const stateDir = join(system.workDir, 'forgetful-state');
    const args = ['push', dir, '--json', '--state-dir', stateDir];
    const proxy = await startTcpProxy(service.port);
    try {
      const first = system.startUploader(proxy.url, args);
      await waitUntil('two fifths are sent', () => proxy.sentBytes() > bytes * 0.4, 30_000);
      proxy.stall();
      await rm(stateDir, { recursive: true });
      const second = await system.runUploader(service.url, args);
      proxy.restore();
      for (const { code, stdout, stderr } of [await first.ended, second]) {
        expect(code, stderr).to.equal(0);
        expect(JSON.parse(lastLine(stdout)).runs[0]).to.include({ revision: 1, state: 'published' });
      }
    } finally {
      await proxy.stop();
    }
  });

  it('ends with 65 when a line is refused, at once the second time', async () => {
    const dir = join(system.workDir, 'three');
    const { path } = await writeScoreFile(join(dir, 'churn/bad/part-1.jsonl'), 100, 3);
    appendFileSync(path, '{"pk": 12, "score": }\n');
    const first = await push([dir]);
    expect(first.code, first.stderr).to.equal(65);
    expect(first.stderr).to.include('part-1.jsonl:101');
    const second = await push([dir]);
    expect(second.code).to.equal(65);
    expect(JSON.parse(lastLine(second.stdout)).runs[0].bytesSent).to.equal(0);
  });

  it('ends with 77 when the token is unknown', async () => {
    const dir = join(system.workDir, 'four');
    await writeScoreFile(join(dir, 'churn/2026-12/a.jsonl'), 10, 4);
    const { code } = await system.runUploader(service.url, ['push', dir], { UPLOADER_TOKEN: 'unknown' });
    expect(code).to.equal(77);
  });
});
