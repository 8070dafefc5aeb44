import { join } from 'node:path';
import { expect } from 'chai';
import { type RunningProgram, waitFor } from './support/programs.ts';
import { testSeed, writeScoreFile } from './support/score-file.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

const LINES = 1_500_000;
const OLD_LINES = 1_000;
/** After the one that was killed is noticed: the server looks for it every 2 s, an idle loader at the queue every 2 s. */
const TAKE_OVER_MS = 5_000;
/** A second loss in a row waits for up to 1 s, and is looked at once more. */
const SECOND_TAKE_OVER_MS = TAKE_OVER_MS + 3_000;

interface Attempt {
  attempt: number;
  worker: string;
  phase: string;
  outcome: string | null;
}

describe('A loader that is killed', () => {
  let system: TestSystem;

  before(async () => {
    system = await startTestSystem();
  });
  after(() => system.stop());

  it('in mid COPY is replaced within 5 s, and the next one in mid index build soon after; readers see the old run whole, and the new one is published once', async () => {
    const seed = testSeed();
    const service = await system.startService();
    const loaders = new Map<number, RunningProgram>();
    const startLoader = () => {
      const loader = system.startLoader();
      loaders.set(loader.pid, loader);
    };
    startLoader();
    startLoader();
    await writeScoreFile(join(system.workDir, 'old/scores.jsonl'), OLD_LINES, seed);
    await writeScoreFile(join(system.workDir, 'new/scores.jsonl'), LINES, seed + 1);
    const push = (dir: string, ...more: string[]) =>
      system.runUploader(service.url, [
        'push',
        join(system.workDir, dir),
        '--model',
        'churn',
        '--run',
        dir,
        ...more,
      ]);
    expect((await push('old')).code).to.equal(0);
    expect((await push('new', '--no-wait')).code).to.equal(0);

    const reader = readUntilNew(system);
    for (const [phase, takeOverMs] of [
      ['copying', TAKE_OVER_MS],
      ['building_key', SECOND_TAKE_OVER_MS],
    ] as const) {
      const attempt = await waitFor(`an attempt to be ${phase}`, () => liveAttempt(phase), 60_000);
      await killLoader(loaders, attempt);
      const killedAtMs = performance.now();
      startLoader();
      await waitFor(
        `attempt ${attempt.attempt + 1} to begin`,
        () => attemptNumber(attempt.attempt + 1),
        takeOverMs + 2_000,
      );
      expect(performance.now() - killedAtMs).to.be.lessThan(takeOverMs);
    }
    const seen = await reader;
    expect(seen.other).to.deep.equal([]);
    expect(seen.oldReads).to.be.greaterThan(10);
    const outcomes = await system.query<Attempt>(
      'SELECT outcome FROM ingest.load_attempt ORDER BY attempt_id',
    );
    expect(outcomes.map(({ outcome }) => outcome)).to.deep.equal(['published', 'lost', 'lost', 'published']);
    expect(await system.query(`SELECT FROM ingest.publication`)).to.have.length(2);
    const partitions = await system.query(
      `SELECT FROM pg_class WHERE relnamespace = 'run_data'::regnamespace AND relkind = 'r'`,
    );
    expect(partitions, 'partitions left behind').to.have.length(2);
  });

  async function liveAttempt(phase: string): Promise<Attempt | undefined> {
    const rows = await system.query<Attempt>(
      `SELECT attempt, worker, phase, outcome FROM ingest.load_attempt JOIN ingest.run_revision USING (revision_id)
       WHERE run_key = 'new' AND finished_at IS NULL AND phase = $1 AND rows_done > 0`,
      [phase],
    );
    return rows[0];
  }

  async function attemptNumber(attempt: number): Promise<Attempt | undefined> {
    const rows = await system.query<Attempt>(
      `SELECT attempt FROM ingest.load_attempt JOIN ingest.run_revision USING (revision_id)
       WHERE run_key = 'new' AND attempt = $1`,
      [attempt],
    );
    return rows[0];
  }
});

async function killLoader(loaders: Map<number, RunningProgram>, { worker }: Attempt): Promise<void> {
  const pid = Number(worker.split(':').at(-1));
  const loader = loaders.get(pid);
  if (loader === undefined) throw new Error(`No loader of this test has the process id of ${worker}.`);
  await loader.kill('SIGKILL');
}

/** Reads the view again and again until it shows the new run; whatever is neither run whole is kept. */
async function readUntilNew(system: TestSystem): Promise<{ oldReads: number; other: object[] }> {
  const other: object[] = [];
  let oldReads = 0;
  for (;;) {
    const [row] = await system.query<{ rows: number; runs: string | null }>(
      `SELECT count(*)::int AS rows, string_agg(DISTINCT run, ',') AS runs FROM scores.churn`,
    );
    if (row?.runs === 'new' && row.rows === LINES) return { oldReads, other };
    if (row?.runs === 'old' && row.rows === OLD_LINES) oldReads += 1;
    else {
      other.push(row ?? {});
      return { oldReads, other };
    }
  }
}
