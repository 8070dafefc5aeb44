import { expect } from 'chai';
import type { RunSummary } from '../src/runs/run-summary.ts';
import { ThroughputLog } from '../src/runs/throughput-log.ts';

const MOVING: RunSummary = {
  model: 'churn',
  run: '2026-11',
  revision: 1,
  state: 'loading',
  as_of: new Date(0),
  declaredAt: new Date(0),
  queuedAt: null,
  loadedAt: null,
  publishedAt: null,
  publishedRevision: null,
  pushedBy: 'airflow',
  rows: null,
  files: { total: 1, received: 0, stalled: 0 },
  bytes: { total: 1000, received: 0 },
  lines: null,
  lastProgressAt: null,
  load: null,
  error: null,
  brokenGates: [],
  mayDo: [],
};

function loaded(bytes: number): RunSummary {
  const load = {
    attempt: 1,
    worker: 'w',
    phase: 'copying',
    rows: 0,
    nextTryAt: null,
    lastError: null,
  } as const;
  return { ...MOVING, load: { ...load, bytes, startedAt: new Date(0) } };
}

describe('the rate of a run', () => {
  const rateAfter = (...seconds: RunSummary[]): number | null => {
    const log = new ThroughputLog();
    for (const [second, run] of seconds.entries()) log.sample([run], new Date(second * 1000));
    return log.bytesPerSecond('churn', '2026-11', 1, 'loadedBytes');
  };

  it('of a load does not count the time in which the run was received', () => {
    expect(rateAfter(MOVING, MOVING, MOVING, loaded(0), loaded(100), loaded(200))).to.equal(100);
  });

  it('counts the time in which a load stood still, and none before its first byte', () => {
    expect(rateAfter(loaded(0), loaded(100), loaded(100), loaded(100), loaded(100))).to.equal(25);
    expect(rateAfter(loaded(0), loaded(0), loaded(0))).to.equal(0);
  });

  it('is of the last half minute', () => {
    const fastThenSlow = Array.from({ length: 60 }, (_, second) =>
      loaded(second < 20 ? second * 50 : 1000 + second),
    );
    expect(rateAfter(...fastThenSlow)).to.equal(1);
  });

  it('is not told from one look, nor of a run that is not known', () => {
    expect(rateAfter(loaded(100))).to.equal(null);
    expect(rateAfter()).to.equal(null);
  });
});
