import type { RunSummary } from 'wire';

interface ThroughputSample {
  readonly at: Date;
  readonly receivedBytes: number;
  readonly loadedBytes: number;
  readonly loadedRows: number;
}

/** By the database's clock. */
interface Sample {
  atMs: number;
  /**
   * When `receivedBytes` was true: an upload's offset is recorded every 2 s or 32 MiB, which is less often
   * than it is sampled.
   */
  receivedAtMs: number;
  readonly receivedBytes: number;
  readonly loadedBytes: number;
  readonly loadedRows: number;
}

/** Half an hour at one sample a second; then older samples are thinned out. */
const MOST_SAMPLES_OF_A_RUN = 1_800;
/** Of all runs together, about 100 bytes each: with many runs each keeps fewer, and none is left out. */
const MOST_SAMPLES = 100_000;
const LEAST_SAMPLES_OF_A_RUN = 8;
/** Runs that have ended, but whose chart may still be open. */
const KEPT_ENDED_RUNS = 200;

const RATE_WINDOW_MS = 30_000;
const SHORTEST_WINDOW_MS = 800;
/** A pause of this length is an interruption, and does not count in the rate. */
const INTERRUPTION_MS = 15_000;
/** An offset that has not been recorded for longer than this has not moved since. */
const RECORDED_WITHIN_MS = 3_000;

type Counter = 'receivedBytes' | 'loadedBytes';

/**
 * How far each run was at each sample, in memory: rates and the page's chart are made from it. A restart
 * loses it, and with it only the chart and the rates.
 */
export class ThroughputLog {
  /** In the order of their last samples. */
  readonly #runs = new Map<string, Sample[]>();

  /** @param now the database's time of the sample. */
  sample(runs: readonly RunSummary[], now: Date): void {
    const atMs = now.getTime();
    for (const run of runs) {
      const key = keyOf(run.model, run.run, run.revision);
      const samples = this.#runs.get(key) ?? [];
      const last = samples.at(-1);
      const sample = {
        atMs,
        receivedAtMs: Math.max(
          run.lastProgressAt === null ? 0 : Date.parse(run.lastProgressAt),
          atMs - RECORDED_WITHIN_MS,
        ),
        receivedBytes: run.bytes.received,
        loadedBytes: run.load?.bytes ?? 0,
        loadedRows: run.load?.rows ?? 0,
      };
      // A run that had ended when it was first seen has nothing to plot.
      if (last === undefined && !isMoving(run)) continue;
      if (!isMoving(run) && isSame(last, sample)) continue;
      // For a run that does not move, the first and the last of equal samples are enough.
      if (isSame(last, sample) && isSame(samples.at(-2), sample)) samples.pop();
      samples.push(sample);
      this.#runs.delete(key);
      this.#runs.set(key, samples);
    }
  }

  /**
   * To be called when all runs that may move have been sampled since `since`: forgets ended runs beyond those
   * that are kept.
   */
  tidy(since: Date): void {
    const sinceMs = since.getTime();
    const ended = [...this.#runs].filter(([, samples]) => (samples.at(-1)?.atMs ?? 0) < sinceMs);
    for (const [key] of ended.slice(0, Math.max(0, ended.length - KEPT_ENDED_RUNS))) this.#runs.delete(key);
    const share = Math.floor(MOST_SAMPLES / Math.max(1, this.#runs.size));
    const most = Math.max(LEAST_SAMPLES_OF_A_RUN, Math.min(MOST_SAMPLES_OF_A_RUN, share));
    for (const [key, samples] of this.#runs) {
      if (samples.length > most) this.#runs.set(key, thinned(samples, most));
    }
  }

  get size(): { readonly runs: number; readonly samples: number } {
    let samples = 0;
    for (const kept of this.#runs.values()) samples += kept.length;
    return { runs: this.#runs.size, samples };
  }

  /** At most `most` samples, over the whole time. */
  samplesOf(model: string, run: string, revision: number, most: number): readonly ThroughputSample[] {
    const samples = this.#runs.get(keyOf(model, run, revision)) ?? [];
    const every = Math.max(1, Math.ceil(samples.length / most));
    return samples
      .filter((_, index) => (samples.length - 1 - index) % every === 0)
      .map(({ atMs, receivedBytes, loadedBytes, loadedRows }) => ({
        at: new Date(atMs),
        receivedBytes,
        loadedBytes,
        loadedRows,
      }));
  }

  /**
   * Over the last half minute, short pauses included. What was before an interruption, before the first byte,
   * or in an earlier attempt does not count. null when there are no two samples to compare.
   */
  bytesPerSecond(model: string, run: string, revision: number, of: Counter): number | null {
    const samples = this.#runs.get(keyOf(model, run, revision)) ?? [];
    const last = samples.at(-1);
    if (last === undefined) return null;
    const first = samples[baseOf(samples, of)] ?? last;
    const spanMs = timeOf(last, of) - timeOf(first, of);
    return spanMs < SHORTEST_WINDOW_MS ? null : ((last[of] - first[of]) * 1000) / spanMs;
  }
}

/** The sample from which the rate up to the last one is measured. */
function baseOf(samples: readonly Sample[], of: Counter): number {
  let base = samples.length - 1;
  const last = samples[base];
  while (base > 0) {
    const [before, now] = [samples[base - 1], samples[base]];
    if (last === undefined || before === undefined || now === undefined) break;
    if (before[of] > now[of]) break; // a new attempt
    if (before[of] < now[of]) {
      // Bytes arrived at an unknown time before their first record. Loaded bytes are reported twice a second.
      if (before[of] === 0) return of === 'loadedBytes' ? base - 1 : base;
      if (isInterruption(samples, base - 1, of)) return base;
    }
    const isOutside = timeOf(last, of) - timeOf(before, of) > RATE_WINDOW_MS;
    // With few samples, the one before the window is the best one.
    if (isOutside && timeOf(last, of) - timeOf(now, of) >= RATE_WINDOW_MS / 2) break;
    base -= 1;
    if (isOutside) break;
  }
  return base;
}

/** True when nothing had moved for `INTERRUPTION_MS` at that sample. */
function isInterruption(samples: readonly Sample[], index: number, of: Counter): boolean {
  const end = samples[index];
  for (let start = index; end !== undefined && start >= 0; start -= 1) {
    const sample = samples[start];
    if (sample === undefined || sample[of] !== end[of]) return false;
    if (timeOf(end, of) - timeOf(sample, of) >= INTERRUPTION_MS) return true;
  }
  return false;
}

function timeOf(sample: Sample, of: Counter): number {
  return of === 'receivedBytes' ? sample.receivedAtMs : sample.atMs;
}

/** All of the newest quarter, and as many of the older ones as there is room for. */
function thinned(samples: readonly Sample[], most: number): Sample[] {
  const whole = Math.ceil(most / 4);
  const older = samples.slice(0, samples.length - whole);
  const every = Math.ceil(older.length / (most / 2 - whole));
  return [...older.filter((_, index) => index % every === 0), ...samples.slice(-whole)];
}

function isMoving({ state }: RunSummary): boolean {
  return state === 'receiving' || state === 'queued' || state === 'loading';
}

function isSame(a: Sample | undefined, b: Sample): boolean {
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
