import { join } from 'node:path';
import { expect } from 'chai';
import { waitFor } from './support/programs.ts';
import { startTcpProxy, type TcpProxy } from './support/proxies.ts';
import { type ScoreFile, testSeed, writeScoreFile } from './support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const CHUNK_BYTES = 1024 * 1024;
const LINES = 500_000;
/** Manifest, headers, and what the uploader asks while it waits. */
const TALK_BYTES = 256 * 1024;

describe('A push whose parts are killed and cut off', () => {
  let system: TestSystem;
  let service: Service;
  let proxy: TcpProxy;
  let file: ScoreFile;

  beforeEach(async () => {
    system = await startTestSystem();
    file = await writeScoreFile(join(system.workDir, 'out/scores.jsonl'), LINES, testSeed());
    service = await system.startService();
    system.startLoader();
    proxy = await startTcpProxy(service.port);
  });

  afterEach(async () => {
    await proxy.stop();
    await system.stop();
  });

  const pushArgs = () => ['push', join(system.workDir, 'out'), '--model', 'churn', '--run', '2026-11'];
  const hasSent = (share: number) =>
    waitFor(`${share * 100} % to be sent`, async () => (await storedBytes()) > file.bytes * share, 30_000);

  async function storedBytes(): Promise<number> {
    const [upload] = await system.query<{ bytes: number }>(
      'SELECT coalesce(sum(offset_bytes), 0)::float8 AS bytes FROM ingest.upload',
    );
    return upload?.bytes ?? 0;
  }

  for (const compress of ['off', 'zstd']) {
    const options = ['--chunk-size', '1MiB', '--json', '--compress', compress];

    it(`sends again at most a chunk for each cut of the network, and publishes every row once (--compress ${compress})`, async () => {
      const push = system.startUploader(proxy.url, [...pushArgs(), ...options]);
      await hasSent(0.2);
      proxy.cut();
      await hasSent(0.5);
      proxy.cut();
      const { code, stderr } = await push.ended;
      expect(code, stderr).to.equal(0);
      expect(proxy.sentBytes()).to.be.lessThan(file.bytes + 2 * CHUNK_BYTES + TALK_BYTES);
      await expectPublishedWhole();
    });

    it(`continues where it was after uploader and service were killed (--compress ${compress})`, async () => {
      const first = system.startUploader(proxy.url, [...pushArgs(), ...options]);
      await hasSent(0.3);
      await first.kill('SIGKILL');

      // On another host: nothing is known there but the files.
      const push = system.startUploader(proxy.url, [...pushArgs(), ...options], {
        HOME: join(system.workDir, 'other-host'),
      });
      await hasSent(0.6);
      await service.kill('SIGKILL');
      service = await system.startService();
      proxy.target(service.port);

      const { code, stderr } = await push.ended;
      expect(code, stderr).to.equal(0);
      expect(proxy.sentBytes()).to.be.lessThan(file.bytes + 2 * CHUNK_BYTES + TALK_BYTES);
      await expectPublishedWhole();
    });
  }

  async function expectPublishedWhole(): Promise<void> {
    const rows = await system.query(
      `SELECT count(*)::int AS rows, count(DISTINCT pk)::int AS keys FROM scores.churn`,
    );
    expect(rows).to.deep.equal([{ rows: LINES, keys: LINES }]);
    const files = await system.query(
      `SELECT encode(sha256, 'hex') AS sha256 FROM ingest.run_file WHERE name = 'scores.jsonl'`,
    );
    expect(files).to.deep.equal([{ sha256: file.sha256 }]);
    expect(await system.query('SELECT FROM ingest.publication')).to.have.length(1);
  }
});
