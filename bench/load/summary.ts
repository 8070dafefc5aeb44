import { median } from '../median.ts';
import type { PartResult } from '../part-result.ts';

/** What `load.ts --json` writes. */
export interface LoadFigures {
  readonly rows: number;
  readonly order: string;
  readonly peakResidentMb: number;
  readonly results: readonly {
    readonly name: string;
    readonly label: string;
    readonly seconds: readonly number[];
    /** Ours / this, the median over the rounds. */
    readonly ratio: number;
  }[];
}

/** What is promised of our time against that of others, with random keys. */
const TARGETS: Readonly<Record<string, number>> = { unchecked: 1.05, serverCopy: 0.85, copyIntoKey: 0.3 };
const PEAK_TARGET_MB = 200;

export function summarize(figures: LoadFigures): PartResult {
  const { rows, order, results, peakResidentMb } = figures;
  const targetOf = (name: string) => (order === 'random' ? (TARGETS[name] ?? null) : null);
  return {
    part: 'load',
    tables: [
      {
        title: `Load of ${rows.toLocaleString('en')} rows, ${order} keys`,
        columns: ['contender', 'median s', 'rows/s', 'ours / this'],
        rows: results.map(({ label, seconds, ratio }) => [
          label,
          median(seconds).toFixed(2),
          Math.round(rows / median(seconds)).toLocaleString('en'),
          ratio.toFixed(2),
        ]),
        notes: [`Peak resident memory of the loader: ${peakResidentMb} MB.`],
      },
    ],
    measures: [
      ...results
        .filter(({ name }) => name !== 'ours')
        .map(({ name, ratio }) => ({
          name: `load, ${order} keys: our seconds / ${name}`,
          value: ratio,
          better: 'lower' as const,
          target: targetOf(name),
        })),
      {
        name: `load, ${order} keys: peak resident MB of the loader`,
        value: peakResidentMb,
        better: 'lower',
        target: PEAK_TARGET_MB,
      },
    ],
    raw: figures,
  };
}
