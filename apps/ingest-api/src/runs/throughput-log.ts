import type { RunSummary } from './run-summary.ts';

export interface ThroughputSample {
  readonly at: Date;
  readonly receivedBytes: number;
  readonly loadedBytes: number;
  readonly loadedRows: number;
}

/** Half an hour at one look a second, longer with slower looks. */
const KEPT_SAMPLES = 1_800;
const KEPT_RUNS = 200;
const RATE_WINDOW_MS = 30_000;
const SHORTEST_WINDOW_MS = 800;

/**
 * How far each run was at each look, in memory: what rates and the page's chart are made of. A restart
 * forgets it, which costs a chart, and no truth.
 */
export class ThroughputLog {
  readonly #runs = new Map<string, ThroughputSample[]>();

  sample(runs: readonly RunSummary[], nowMs: number): void {
    for (const run of runs) {
      const key = keyOf(run.model, run.run, run.revision);
      const samples = this.#runs.get(key) ?? [];
      const sample = {
        at: new Date(nowMs),
        receivedBytes: run.bytes.received,
        loadedBytes: run.load?.bytes ?? 0,
        loadedRows: run.load?.rows ?? 0,
      };
      // A run that was over when it was first seen has nothing to plot.
      if (samples.length === 0 && !isMoving(run)) continue;
      if (!isMoving(run) && isSame(samples.at(-1), sample)) continue;
      samples.push(sample);
      if (samples.length > KEPT_SAMPLES) samples.shift();
      this.#runs.delete(key); // the run that was sampled last stands last
      this.#runs.set(key, samples);
    }
    for (const key of this.#runs.keys()) {
      if (this.#runs.size <= KEPT_RUNS) break;
      this.#runs.delete(key);
    }
  }

  samplesOf(model: string, run: string, revision: number): readonly ThroughputSample[] {
    return this.#runs.get(keyOf(model, run, revision)) ?? [];
  }

  /**
   * Over the last half minute, what stood still included, but not the time before the first byte: while a run is
   * received its load has not begun. null when there are no two looks to compare.
   */
  bytesPerSecond(
    model: string,
    run: string,
    revision: number,
    of: 'receivedBytes' | 'loadedBytes',
  ): number | null {
    const samples = this.samplesOf(model, run, revision);
    const last = samples.at(-1);
    if (last === undefined) return null;
    const began = last[of] === 0 ? -1 : samples.findLastIndex((sample) => sample[of] === 0);
    const isRecent = ({ at }: ThroughputSample) => last.at.getTime() - at.getTime() <= RATE_WINDOW_MS;
    const first = samples.find((sample, index) => index >= began && isRecent(sample)) ?? last;
    const spanMs = last.at.getTime() - first.at.getTime();
    if (spanMs < SHORTEST_WINDOW_MS) return null;
    // A load that was begun anew stands behind where its last try was.
    return Math.max(0, ((last[of] - first[of]) * 1000) / spanMs);
  }
}

function isMoving({ state }: RunSummary): boolean {
  return state === 'receiving' || state === 'queued' || state === 'loading';
}

function isSame(a: ThroughputSample | undefined, b: ThroughputSample): boolean {
  return (
    a !== undefined &&
    a.receivedBytes === b.receivedBytes &&
    a.loadedBytes === b.loadedBytes &&
    a.loadedRows === b.loadedRows
  );
}

function keyOf(model: string, run: string, revision: number): string {
  return `${model} ${revision} ${run}`;
}
