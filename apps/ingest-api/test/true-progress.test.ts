import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import * as answers from 'wire';
import { runPath, startSystem, type TestSystem } from './support/system.ts';

const LASTS_MS = 10_000;
/** Then there are records to compare, and what a record lags behind is little against the whole. */
const MEASURED_AFTER_MS = 7_000;
/** Offsets are recorded every 2 s; what is gathered, synced and committed meanwhile comes with the next record. */
const RECORDED_WITHIN_MS = 3_000;

interface Look {
  readonly atMs: number;
  readonly sentBytes: number;
  readonly run: answers.Run;
}

const sha256Of = (text: string) => createHash('sha256').update(text).digest('hex');

/** Sends at that pace, whatever the machine does meanwhile, and asks for the run as it goes. */
async function sendAndLook(system: TestSystem, run: string, bytesPerSecond: number, totalBytes: number) {
  const file = { name: 'a.jsonl', bytes: totalBytes, sha256: sha256Of(run), lines: 1 }; // never complete
  const declared = await system.request('PUT', runPath('paced', run), { json: { files: [file] } });
  const { missing } = answers.run.parse(await declared.json());
  const url = new URL(missing.files[0]?.uploadUrl ?? '', system.url);
  const patch = request(url, {
    method: 'PATCH',
    headers: {
      authorization: `Bearer ${system.token}`,
      'tus-resumable': '1.0.0',
      'upload-offset': '0',
      'content-type': 'application/offset+octet-stream',
      'content-length': totalBytes,
    },
  });
  patch.on('error', () => {}); // it is cut off at the end
  const startedMs = Date.now();
  const sentAt = (ms: number) => Math.max(0, Math.floor(((ms - startedMs) * bytesPerSecond) / 1000));
  let sentBytes = 0;
  const pacing = setInterval(() => {
    const due = sentAt(Date.now());
    patch.write(Buffer.alloc(due - sentBytes, 'x'));
    sentBytes = due;
  }, 20);
  const looks: Look[] = [];
  while (Date.now() - startedMs < LASTS_MS) {
    const answer = await system.request('GET', runPath('paced', run));
    looks.push({ atMs: Date.now(), sentBytes, run: answers.run.parse(await answer.json()) });
    await delay(250); // the pace of whoever looks, not a wait for something
  }
  clearInterval(pacing);
  patch.destroy();
  return { startedMs, sentAt, looks };
}

describe('how far a run is, as the service says it', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  it('is true at 200 KB/s and at 6 MB/s: offset, last progress, rate, time left', async () => {
    await Promise.all([compare('200 KB/s', 200_000), compare('6 MB/s', 6_000_000)]);
  });

  async function compare(name: string, bytesPerSecond: number): Promise<void> {
    const totalBytes = bytesPerSecond * 80;
    const { startedMs, sentAt, looks } = await sendAndLook(system, name, bytesPerSecond, totalBytes);
    const measured = looks.filter(({ atMs }) => atMs - startedMs > MEASURED_AFTER_MS);
    expect(measured).to.have.length.above(5);
    for (const { atMs, sentBytes, run } of measured) {
      const at = `at ${name} after ${((atMs - startedMs) / 1000).toFixed(1)} s`;
      const { received } = run.bytes;
      const longestLagMs = RECORDED_WITHIN_MS + 500;
      expect(received, `offset ${at}`).to.be.within(sentAt(atMs - longestLagMs), sentBytes);
      const progressMs = Date.parse(run.lastProgressAt ?? '');
      expect(atMs - progressMs, `age of the last progress ${at}`).to.be.below(longestLagMs);
      expect(received / sentAt(progressMs), `offset at the last progress ${at}`).to.be.within(0.9, 1.01);
      expect(run.files.stalled, `stalled ${at}`).to.equal(0);
      expect((run.progress?.bytesPerSecond ?? 0) / bytesPerSecond, `rate ${at}`).to.be.within(0.9, 1.1);
      const left = (totalBytes - sentBytes) / bytesPerSecond;
      expect((run.progress?.etaSeconds ?? 0) / left, `time left ${at}`).to.be.within(0.9, 1.1);
    }
  }
});
