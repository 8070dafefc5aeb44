import type { Measure } from './part-result.ts';

/** What a machine and its mood change from run to run, as was seen: less than this is no news. */
export const TOLERANCE = 0.15;

export interface Comparison {
  readonly name: string;
  readonly before: number;
  /** null when this result does not have it. */
  readonly now: number | null;
  readonly verdict: 'worse' | 'better' | 'same' | 'missing';
}

/** Holds a result's measures against those of a baseline, one by one; measures that are new are not news. */
export function compare(
  baseline: readonly Measure[],
  now: readonly Measure[],
  tolerance: number = TOLERANCE,
): Comparison[] {
  const byName = new Map(now.map((measure) => [measure.name, measure.value]));
  return baseline.map(({ name, value: before, better }) => {
    const value = byName.get(name);
    if (value === undefined) return { name, before, now: null, verdict: 'missing' };
    // NaN is null in JSON, and null is 0 when it is divided: a figure that could not be had would pass for a good one.
    const found = Number.isFinite(value) ? value : Number.NaN;
    const change = better === 'lower' ? found / before : before / found;
    if (!(change <= 1 + tolerance)) return { name, before, now: value, verdict: 'worse' };
    return { name, before, now: value, verdict: change < 1 - tolerance ? 'better' : 'same' };
  });
}
