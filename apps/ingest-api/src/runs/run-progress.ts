import type { RunView } from './describe-run.ts';
import type { ThroughputLog } from './throughput-log.ts';

export interface RunProgress {
  /** What goes on now: `receiving`, or the phase of the load. */
  readonly step: 'receiving' | 'copying' | 'building_key' | 'attaching' | 'publishing';
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number | null;
  /** Until the end of this step. null when nothing that was measured can tell: no rate yet, it stands still, or the step has no bytes. */
  readonly etaSeconds: number | null;
}

/** How far the run is right now; null when nothing is going on. */
export function progressOf(
  view: Pick<RunView, 'model' | 'run' | 'revision' | 'state' | 'totals' | 'load'>,
  throughput: ThroughputLog,
): RunProgress | null {
  const { model, run, revision, state, totals, load } = view;
  if (state === 'receiving') {
    const rate = throughput.bytesPerSecond(model, run, revision, 'receivedBytes');
    return { step: 'receiving', ...pace(totals.receivedBytes, totals.bytes, rate) };
  }
  if (state !== 'loading' || load === null || load.phase === null) return null;
  if (load.phase !== 'copying') {
    return { step: load.phase, ...pace(load.bytes, totals.bytes, null) };
  }
  const rate =
    throughput.bytesPerSecond(model, run, revision, 'loadedBytes') ??
    averageSince(load.startedAt, load.updatedAt, load.bytes);
  return { step: 'copying', ...pace(load.bytes, totals.bytes, rate) };
}

function pace(doneBytes: number, totalBytes: number, rate: number | null) {
  return {
    doneBytes,
    totalBytes,
    bytesPerSecond: rate === null ? null : Math.round(rate),
    etaSeconds: rate === null || rate <= 0 ? null : Math.ceil((totalBytes - doneBytes) / rate),
  };
}

function averageSince(startedAt: Date, updatedAt: Date, bytes: number): number | null {
  const seconds = (updatedAt.getTime() - startedAt.getTime()) / 1000;
  return seconds < 1 ? null : bytes / seconds;
}
