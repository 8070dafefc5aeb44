import { mkdir, writeFile } from 'node:fs/promises';
import { constants, setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

const MODELS = 60;
const PROCESSES = 30;
const PROBED_EVERY_MS = 100;
/** On two cores that nothing else wants; other test processes take their share of them. */
const PUBLISHED_WITHIN_MS = 15_000;

/** Sixty DAGs at midnight: by one command, and by thirty at the same moment. */
describe('sixty models at once', () => {
  let system: TestSystem;
  let url: string;
  before(async () => {
    system = await startTestSystem();
    ({ url } = await system.startService());
    system.startLoader();
  });
  after(() => system.stop());

  async function makeFolder(name: string, first: number, models: number, run: string): Promise<string> {
    const dir = join(system.workDir, name);
    for (let index = first; index < first + models; index += 1) {
      const folder = join(dir, `model_${index}`, run);
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, 'scores.jsonl'), `{"pk":"${index}","score":${index}}\n`);
    }
    return dir;
  }

  /** The pushes, while `/readyz` is asked all the time: what it answered with something else than 200 within a second. */
  async function pushBeside(pushes: () => Promise<void>): Promise<{ tookMs: number; unready: string[] }> {
    let isOver = false;
    const unready: string[] = [];
    const probing = (async () => {
      while (!isOver) {
        const startedMs = performance.now();
        const { status } = await fetch(`${url}/readyz`);
        const tookMs = performance.now() - startedMs;
        if (status !== 200 || tookMs > 1_000) unready.push(`${status} after ${Math.round(tookMs)} ms`);
        await delay(PROBED_EVERY_MS); // asked without a pause it would take a core
      }
    })();
    const startedMs = performance.now();
    try {
      await pushes();
      return { tookMs: performance.now() - startedMs, unready };
    } finally {
      isOver = true;
      await probing;
    }
  }

  async function push(dir: string, ...flags: string[]): Promise<void> {
    const uploader = system.startUploader(url, ['push', dir, ...flags]);
    // It runs on another host in earnest: here the service must not wait for a core behind thirty of them.
    setPriority(uploader.pid, constants.priority.PRIORITY_LOW);
    const { code, stderr } = await uploader.ended;
    expect(code, stderr).to.equal(0);
    expect(stderr).not.to.match(/503|again|retry/i);
  }

  async function published(run: string): Promise<number> {
    const rows = await system.query<{ count: number }>(
      `SELECT count(*)::int AS count FROM ingest.run_revision WHERE state = 'published' AND run_key = '${run}'`,
    );
    return rows[0]?.count ?? 0;
  }

  it('are published by one push, without a retry, while the service is ready', async () => {
    const dir = await makeFolder('one', 0, MODELS, '2026-11');
    const { tookMs, unready } = await pushBeside(() => push(dir));
    console.log(`      one push: ${Math.round(tookMs)} ms`);
    expect(await published('2026-11')).to.equal(MODELS);
    expect(unready).to.deep.equal([]);
    expect(tookMs).to.be.below(PUBLISHED_WITHIN_MS);
  });

  it('are published by thirty processes at the same time, without a retry, while the service is ready', async () => {
    const share = MODELS / PROCESSES;
    const dirs = await Promise.all(
      Array.from({ length: PROCESSES }, (_, index) =>
        makeFolder(`of ${index}`, index * share, share, '2026-12'),
      ),
    );
    const { tookMs, unready } = await pushBeside(async () => {
      await Promise.all(dirs.map((dir) => push(dir)));
    });
    console.log(`      thirty processes: ${Math.round(tookMs)} ms, most of it to start them`);
    expect(await published('2026-12')).to.equal(MODELS);
    expect(unready).to.deep.equal([]);
  });
});
