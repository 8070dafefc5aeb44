import { expect } from 'chai';
import type { RunSummary } from 'wire';
import { ThroughputLog } from '../src/runs/throughput.ts';

const MOVING: RunSummary = {
  model: 'churn',
  run: '2026-11',
  revision: 1,
  state: 'loading',
  as_of: new Date(0).toISOString(),
  declaredAt: new Date(0).toISOString(),
  queuedAt: null,
  loadedAt: null,
  publishedAt: null,
  publishedRevision: null,
  sentFrom: { host: null, dag: null },
  as_of_from: 'declared',
  shown: null,
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
  return { ...MOVING, load: { ...load, bytes, startedAt: new Date(0).toISOString() } };
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

  it('of an upload is measured between records of its offset, not between looks', () => {
    const log = new ThroughputLog();
    // 6 MB/s, recorded every 2 s; the first record comes with the bytes of 2 s.
    for (let ms = 0; ms <= 12_000; ms += 900) {
      const recordedMs = ms - (ms % 2_000);
      const bytes = { total: 1e9, received: recordedMs * 6_000 };
      const run = {
        ...MOVING,
        state: 'receiving' as const,
        bytes,
        lastProgressAt: new Date(recordedMs).toISOString(),
      };
      log.sample([run], new Date(ms));
      const rate = log.bytesPerSecond('churn', '2026-11', 1, 'receivedBytes');
      if (ms > 4_000) expect(rate, `after ${ms} ms`).to.be.closeTo(6_000_000, 1);
    }
  });

  it('of an upload that continues after an interruption is that since then; a pause shorter than that counts', () => {
    const rateAfterPause = (pauseSeconds: number) => {
      const log = new ThroughputLog();
      let received = 0;
      let recorded = 0;
      for (let second = 0; second <= pauseSeconds + 8; second += 1) {
        if (second <= 4 || second > 4 + pauseSeconds) {
          received += 100;
          recorded = second;
        }
        const bytes = { total: 1e9, received };
        const lastProgressAt = new Date(recorded * 1_000).toISOString();
        log.sample([{ ...MOVING, state: 'receiving', bytes, lastProgressAt }], new Date(second * 1_000));
      }
      return log.bytesPerSecond('churn', '2026-11', 1, 'receivedBytes');
    };
    expect(rateAfterPause(100)).to.equal(100);
    expect(rateAfterPause(8)).to.equal(50);
  });

  it('is known of each of 10,000 runs, in bounded memory', () => {
    const log = new ThroughputLog();
    const runs = 10_000;
    for (let second = 0; second < 100; second += 5) {
      const look = Array.from({ length: runs }, (_, index) => ({
        ...MOVING,
        run: `${index}`,
        state: 'receiving' as const,
        bytes: { total: 1e9, received: (second + 1) * index },
        lastProgressAt: new Date(second * 1_000).toISOString(),
      }));
      log.sample(look, new Date(second * 1_000));
      log.tidy(new Date(second * 1_000));
    }
    expect(log.size.runs).to.equal(runs);
    expect(log.size.samples).to.be.below(runs * 11);
    for (const index of [1, 777, runs - 1])
      expect(log.bytesPerSecond('churn', `${index}`, 1, 'receivedBytes')).to.be.closeTo(index, 1e-6);
    const endedAt = new Date(200_000);
    log.tidy(endedAt);
    expect(log.size.runs, 'that have ended').to.equal(200);
  });

  it('is unknown after one poll, and for an unknown run', () => {
    expect(rateAfter(loaded(100))).to.equal(null);
    expect(rateAfter()).to.equal(null);
  });
});
