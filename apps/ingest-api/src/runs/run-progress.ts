import type { Database, KeyBuild } from 'db-schema';
import type { Kysely } from 'kysely';
import type { RunView } from './describe-run.ts';
import { expectedKeySeconds } from './expected-key-seconds.ts';
import type { ThroughputLog } from './throughput-log.ts';

export interface RunProgress {
  /** What goes on now: `receiving`, or the phase of the load. */
  readonly step: 'receiving' | 'copying' | 'building_key' | 'attaching' | 'publishing';
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number | null;
  /** Until the end of this step. null when nothing that was measured can tell: no rate yet, or it is stalled. */
  readonly etaSeconds: number | null;
  /** Until the load is over and readers see the run; null when nothing that was measured can tell. */
  readonly loadEtaSeconds: number | null;
}

export type RunInProgress = Pick<
  RunView,
  'model' | 'run' | 'revision' | 'state' | 'rows' | 'bytes' | 'lines' | 'load'
>;

/** How far the run is right now; null when nothing is going on. */
export async function progressOf(
  db: Kysely<Database>,
  view: RunInProgress,
  throughput: ThroughputLog,
): Promise<RunProgress | null> {
  const { model, run, revision, state, bytes, lines, load } = view;
  if (state === 'receiving') {
    const rate = throughput.bytesPerSecond(model, run, revision, 'receivedBytes');
    return { step: 'receiving', ...pace(bytes.received, bytes.total, rate), loadEtaSeconds: null };
  }
  if (state !== 'loading' || load === null || load.phase === null) return null;
  const step = load.phase;
  if (step === 'copying') {
    const rate =
      throughput.bytesPerSecond(model, run, revision, 'loadedBytes') ??
      averageSince(load.startedAt, load.updatedAt, load.bytes);
    const copying = pace(load.bytes, bytes.total, rate);
    const keySeconds = lines === null ? null : await expectedKeySeconds(db, model, lines);
    return { step, ...copying, loadEtaSeconds: sum(copying.etaSeconds, keySeconds) };
  }
  const copied = pace(load.bytes, bytes.total, null);
  if (step !== 'building_key') return { step, ...copied, loadEtaSeconds: null };
  const etaSeconds =
    load.keyBuild === null
      ? null
      : secondsLeft(load.keyBuild, await expectedKeySeconds(db, model, load.rows));
  // What comes after the key takes moments.
  return { step, ...copied, etaSeconds, loadEtaSeconds: etaSeconds };
}

/** Before this the rate of a step is mostly chance. */
const RATE_AFTER_SECONDS = 1;

/**
 * While the index is written, its own pace tells. Scan and sort do not tell how long the rest takes: there
 * earlier loads of the model do, until this one takes longer than they did.
 */
export function secondsLeft(build: KeyBuild, expectedSeconds: number | null): number | null {
  const { step, done, total, stepSeconds, seconds } = build;
  if (step === 'writing' && done > 0 && stepSeconds >= RATE_AFTER_SECONDS)
    return Math.ceil(((total - done) * stepSeconds) / done);
  if (expectedSeconds === null || seconds >= expectedSeconds) return null;
  return Math.ceil(expectedSeconds - seconds);
}

function pace(doneBytes: number, totalBytes: number, rate: number | null) {
  return {
    doneBytes,
    totalBytes,
    bytesPerSecond: rate === null ? null : Math.round(rate),
    etaSeconds: rate === null || rate <= 0 ? null : Math.ceil((totalBytes - doneBytes) / rate),
  };
}

function sum(seconds: number | null, more: number | null): number | null {
  return seconds === null || more === null ? null : Math.ceil(seconds + more);
}

function averageSince(startedAt: Date, updatedAt: Date, bytes: number): number | null {
  const seconds = (updatedAt.getTime() - startedAt.getTime()) / 1000;
  return seconds < 1 ? null : bytes / seconds;
}
