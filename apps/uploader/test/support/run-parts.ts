import type { Run } from 'wire';

type Load = NonNullable<Run['load']>;
type Progress = NonNullable<Run['progress']>;

const INSTANT = '2026-11-01T00:00:00.000Z';

/** A load under way, as the service answers it. */
export function loadOf(part: Partial<Load>): Load {
  return {
    attempt: 1,
    worker: 'test:1',
    phase: 'copying',
    keyBuild: null,
    bytes: 0,
    rows: 0,
    startedAt: INSTANT,
    updatedAt: INSTANT,
    finishedAt: null,
    outcome: null,
    nextTryAt: null,
    lastError: null,
    ...part,
  };
}

export function keyBuildOf(step: 'sorting' | 'writing', done: number, total: number): Load['keyBuild'] {
  return { step, done, total, stepSeconds: 1, seconds: 1 };
}

export function progressOf(part: Partial<Progress>): Progress {
  return {
    step: 'copying',
    doneBytes: 0,
    totalBytes: 0,
    bytesPerSecond: null,
    etaSeconds: null,
    loadEtaSeconds: null,
    ...part,
  };
}
