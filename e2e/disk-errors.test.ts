import { createHash } from 'node:crypto';
import { appendFile, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { inject, whyNoStrace } from './support/machine-faults.ts';
import { declareUpload } from './support/one-upload.ts';
import { waitFor } from './support/programs.ts';
import { writeScoreFile } from './support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

/** What the service does to the disk for an upload; it renames nothing. */
const CALLS = ['openat', 'fsync', 'pwritev', 'fdatasync', 'ftruncate'] as const;
/** The same for a small file, which has a name that nobody knows before: of these no other file is the object. */
const CALLS_OF_SMALL = ['fsync', 'pwrite64', 'fdatasync'] as const;
const STATUS = { EIO: 503, ENOSPC: 507 } as const;
/** No call is made that often for so small a file. */
const MOST = 12;
const LINES = 60_000;
/** Longer than the probe's patience. */
const HANGS_MS = 8_000;

describe('A disk that answers with an error', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let service: Service;

  before(async function () {
    const reason = await whyNoStrace();
    if (reason !== undefined) {
      console.log(`      skipped: ${reason}`);
      this.skip();
    }
    system = await startTestSystem();
    service = await system.startService({ env: { UV_THREADPOOL_SIZE: '1' } });
  });
  after(() => system?.stop());

  it('not at all, but hangs, is reported by the probe', async () => {
    const injection = await inject(service.pid, join(system.workDir, 'hang.strace'), {
      call: 'fsync',
      effect: { delayMs: HANGS_MS },
      nth: 1,
      paths: [join(system.workDir, 'uploads')],
    });
    // Each answer comes within a second; a sync that takes longer than 5 s is a fault. (A database that is slow beside other
    // tests may be one, too.)
    const fault = await waitFor('the probe to say so', async () => {
      const answer = await fetch(`${service.url}/readyz`);
      const body = answer.ok ? undefined : ((await answer.json()) as { code: string });
      return body?.code === 'storage_fault' ? body : undefined;
    });
    expect(fault).to.include({ status: 503, retryable: true });
    expect((await fetch(`${service.url}/livez`)).status).to.equal(200);
    await waitFor('the disk to answer again', async () => (await fetch(`${service.url}/readyz`)).ok, 30_000);
    await injection.end();
  });

  for (const error of ['EIO', 'ENOSPC'] as const) {
    it(`at the Nth call, with ${error}, is answered with ${STATUS[error]}; nothing is acknowledged, and the upload continues`, async () => {
      const { path } = await writeScoreFile(join(system.workDir, 'scores.jsonl'), LINES, 1);
      const fired: Record<string, number> = {};
      const inEachPlace = async (call: string, lines: Buffer, what: string) => {
        fired[what] = 0;
        for (let nth = 1; nth <= MOST; nth += 1) {
          if (!(await survives(call, nth, lines, what))) break;
          fired[what] += 1;
        }
      };
      const lines = await readFile(path);
      for (const call of CALLS) await inEachPlace(call, lines, call);
      for (const call of CALLS_OF_SMALL) await inEachPlace(call, Buffer.alloc(0), `small-${call}`);
      console.log(`      ${error} injected: ${JSON.stringify(fired)}`);
      expect(
        Object.values(fired).every((count) => count > 0),
        'a call was never hit',
      ).to.equal(true);
      expect(
        Object.values(fired).every((count) => count < MOST),
        'a call never came to its end',
      ).to.equal(true);
    });

    /** @returns false when that call is not made so often. */
    async function survives(call: string, nth: number, lines: Buffer, what: string): Promise<boolean> {
      const name = `${error}-${what}-${nth}`;
      // Content of its own: the same would share its upload.
      const content = Buffer.concat([Buffer.from(`{ "pk": "${name}", "score": "1" }\n`), lines]);
      const upload = await declareUpload(service.url, system.token, name, content);
      const dataDir = join(system.workDir, 'uploads');
      const stored = join(dataDir, upload.id);
      // A first part that is there, and behind it what a crash leaves: there is something to truncate.
      const first = call === 'ftruncate' ? 1000 : 0;
      if (first > 0) {
        expect((await upload.patch(0, first)).status).to.equal(204);
        await appendFile(stored, 'never acknowledged');
      }
      const injection = await inject(service.pid, join(system.workDir, `${name}.strace`), {
        call,
        effect: { error },
        nth,
        paths: lines.length > 0 ? [dataDir, stored] : call === 'fsync' ? [dataDir] : [],
      });
      const { status } = await upload.patch(first);
      const hasFired = await injection.end();
      expect(status, name).to.equal(hasFired ? STATUS[error] : 204);
      if (hasFired) {
        const offset = await upload.offset();
        expect(offset, name).to.be.lessThan(content.length);
        expect((await upload.patch(offset)).status, name).to.equal(204);
      }
      const files = (await readdir(dataDir)).filter((file) => file.startsWith(upload.id));
      expect(files, name).to.have.length(1);
      const sha256 = createHash('sha256')
        .update(await readFile(join(dataDir, files[0] ?? '')))
        .digest('hex');
      expect(sha256, name).to.equal(upload.sha256);
      return hasFired;
    }
  }
});
