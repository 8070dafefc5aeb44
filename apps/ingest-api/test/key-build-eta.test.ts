import { expect } from 'chai';
import * as answers from 'wire';
import { secondsLeft } from '../src/runs/describe.ts';
import { holdBackend } from './support/hold-backend.ts';
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

  it('is computed from the pace of the writing of the key, once it has a pace', () => {
    expect(secondsLeft(writing, null)).to.equal(6);
    expect(secondsLeft({ ...writing, stepSeconds: 0.5 }, 20)).to.equal(11);
  });

  it('is computed from earlier loads while the rows are read and sorted, and is unknown when there are none', () => {
    expect(secondsLeft(scanning, 20)).to.equal(16);
    expect(secondsLeft(scanning, null)).to.equal(null);
  });

  it('is unknown when it takes longer than ever', () => {
    expect(secondsLeft({ ...scanning, seconds: 21 }, 20)).to.equal(null);
  });

  describe('of a real load', function () {
    this.timeout(2 * PATIENCE_MS);
    let system: TestSystem;
    let letGo = () => {};

    before(async () => {
      system = await startSystem();
    });

    after(async () => {
      letGo();
      await system.stop();
    });

    const read = async (run: string) =>
      answers.run.parse(await (await system.request('GET', runPath('churn', run))).json());

    it('is computed from what PostgreSQL shows of the index, and from the load before', async () => {
      await pushRun(system, 'churn', '2026-10', [{ name: 'a.jsonl', content: scoreLines(ROWS) }]);
      system.startLoader();
      await untilFinal(system, 'churn', '2026-10', PATIENCE_MS);
      await system.query(
        `UPDATE ingest.load_attempt SET phase_seconds = '{"copying": 2, "building_key": 600}'`,
      );

      await pushRun(system, 'churn', '2026-11', [{ name: 'a.jsonl', content: scoreLines(ROWS, 1, 1) }]);
      // Held in the middle of the build: there is time to look at it.
      letGo = await holdBackend(system, 'pg_stat_progress_create_index', `phase LIKE 'building index: %'`);
      const run = await eventually(
        () => read('2026-11'),
        ({ load }) => load?.keyBuild != null,
        PATIENCE_MS,
      );
      expect(run.load?.keyBuild?.step).to.be.oneOf(['scanning', 'sorting', 'writing']);
      expect(run.progress).to.include({ step: 'building_key' });
      expect(run.progress?.etaSeconds).to.be.within(1, 600);
      expect(run.progress?.loadEtaSeconds).to.equal(run.progress?.etaSeconds);

      letGo();
      const done = await untilFinal(system, 'churn', '2026-11', PATIENCE_MS);
      expect(done).to.include({ state: 'published', rows: ROWS });
      expect((await read('2026-11')).load?.keyBuild).to.equal(null);
    });
  });
});
