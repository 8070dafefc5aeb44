import { expect } from 'chai';
import * as answers from 'wire';
import { secondsLeft } from '../src/runs/describe.ts';
import {
  eventually,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const ROWS = 400_000;
const PATIENCE_MS = 90_000;

describe('when a load will end', () => {
  const scanning = { step: 'scanning', done: 10, total: 100, stepSeconds: 4, seconds: 4 } as const;
  const writing = { step: 'writing', done: 250, total: 1_000, stepSeconds: 2, seconds: 9 } as const;

  it('is told by the pace of the writing of the key, once it has a pace', () => {
    expect(secondsLeft(writing, null)).to.equal(6);
    expect(secondsLeft({ ...writing, stepSeconds: 0.5 }, 20)).to.equal(11);
  });

  it('is told by earlier loads while the rows are read and sorted, and by nobody when there are none', () => {
    expect(secondsLeft(scanning, 20)).to.equal(16);
    expect(secondsLeft(scanning, null)).to.equal(null);
  });

  it('is told by nobody when it takes longer than ever', () => {
    expect(secondsLeft({ ...scanning, seconds: 21 }, 20)).to.equal(null);
  });

  describe('of a real load', function () {
    this.timeout(2 * PATIENCE_MS);
    let system: TestSystem;
    const backends: number[] = [];

    before(async () => {
      system = await startSystem();
    });

    after(async () => {
      for (const pid of backends) resume(pid);
      await system.stop();
    });

    const read = async (run: string) =>
      answers.run.parse(await (await system.request('GET', runPath('churn', run))).json());

    it('is told from what PostgreSQL shows of the index, and from the load before', async () => {
      await pushRun(system, 'churn', '2026-10', [{ name: 'a.jsonl', content: scoreLines(ROWS) }]);
      system.startLoader();
      await untilFinal(system, 'churn', '2026-10', PATIENCE_MS);
      await system.query(
        `UPDATE ingest.load_attempt SET phase_seconds = '{"copying": 2, "building_key": 600}'`,
      );

      await pushRun(system, 'churn', '2026-11', [{ name: 'a.jsonl', content: scoreLines(ROWS, 1, 1) }]);
      backends.push(await stoppedInMidBuild());
      const run = await eventually(
        () => read('2026-11'),
        ({ load }) => load?.keyBuild != null,
        PATIENCE_MS,
      );
      expect(run.load?.keyBuild?.step).to.be.oneOf(['scanning', 'sorting', 'writing']);
      expect(run.progress).to.include({ step: 'building_key' });
      expect(run.progress?.etaSeconds).to.be.within(1, 600);
      expect(run.progress?.loadEtaSeconds).to.equal(run.progress?.etaSeconds);

      for (const pid of backends) resume(pid);
      const done = await untilFinal(system, 'churn', '2026-11', PATIENCE_MS);
      expect(done).to.include({ state: 'published', rows: ROWS });
      expect((await read('2026-11')).load?.keyBuild).to.equal(null);
    });

    /** Held in the middle of the build, as on a disk that hangs: there is time to look at it. */
    async function stoppedInMidBuild(): Promise<number> {
      const [backend] = await eventually(
        () =>
          system.query<{ pid: number }>(
            `SELECT pid FROM pg_stat_progress_create_index
             WHERE datname = current_database() AND phase LIKE 'building index: %'`,
          ),
        (rows) => rows.length === 1,
        PATIENCE_MS,
      );
      if (backend === undefined) throw new Error('There is no backend.');
      process.kill(backend.pid, 'SIGSTOP');
      return backend.pid;
    }
  });
});

function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
