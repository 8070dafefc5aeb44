import type { LoadTurn } from '../load-contenders.ts';
import type { Machine } from '../machine.ts';
import { median } from '../median.ts';
import type { PartResult } from '../part-result.ts';

export interface LoadFigures {
  readonly machine: Machine;
  readonly rows: number;
  readonly order: string;
  /** Of the file that ours loads. */
  readonly bytes: number;
  readonly peakResidentMb: number;
  readonly results: readonly {
    readonly name: string;
    readonly label: string;
    /** One a round. */
    readonly turns: readonly LoadTurn[];
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
        columns: [
          'contender',
          'median s',
          'rows/s',
          'ours / this',
          'COPY s',
          'key s',
          'COMMIT and the rest s',
        ],
        rows: results.map(({ label, turns, ratio }) => {
          const seconds = median(turns.map((turn) => turn.seconds));
          return [
            label,
            seconds.toFixed(2),
            Math.round(rows / seconds).toLocaleString('en'),
            ratio.toFixed(2),
            ...phaseColumns(turns),
          ];
        }),
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

function phaseColumns(turns: readonly LoadTurn[]): string[] {
  const told = turns.flatMap(({ seconds, phases }) => (phases === undefined ? [] : [{ seconds, ...phases }]));
  if (told.length === 0) return ['-', '-', '-'];
  return [
    median(told.map(({ copySeconds }) => copySeconds)),
    median(told.map(({ keySeconds }) => keySeconds)),
    median(told.map(({ seconds, copySeconds, keySeconds }) => seconds - copySeconds - keySeconds)),
  ].map((value) => value.toFixed(2));
}
