import { median } from '../median.ts';
import type { Measure, PartResult } from '../part-result.ts';
import type { Table } from '../table.ts';
import type { ContenderName, UploadContender } from './contender.ts';
import type { Shape } from './shape.ts';

/** One sending of all files. */
export interface Turn {
  /** Until the last answer. */
  readonly answeredSeconds: number;
  /** Until a `sync` after it was through: some servers answer before they have written. */
  readonly onDiskSeconds: number;
}

export interface Measured {
  readonly shape: Shape;
  readonly contender: UploadContender;
  /** One a round. */
  readonly turns: Turn[];
}

/** What is promised of our throughput, against that of another. */
const TARGETS: Partial<Record<ContenderName, number>> = { tusd: 1, plainPut: 0.9 };

export function summarize(
  shapes: readonly Shape[],
  measured: readonly Measured[],
  transfers: number,
): PartResult {
  const measures: Measure[] = [];
  const tables = shapes.map((shape): Table => {
    const those = measured.filter((one) => one.shape === shape);
    const ours = those.find(({ contender }) => contender.name === 'ours')?.turns ?? [];
    const rows = those.map(({ contender: { name, label }, turns }) => {
      const seconds = median(turns.map(({ answeredSeconds }) => answeredSeconds));
      const answered = timesAsFast(ours, turns, 'answeredSeconds');
      const onDisk = timesAsFast(ours, turns, 'onDiskSeconds');
      if (name !== 'ours' && ours.length > 0) {
        const compared = `upload ${shape.name}: our throughput / ${name}`;
        const target = TARGETS[name] ?? null;
        measures.push({ name: compared, value: answered, better: 'higher', target });
        measures.push({ name: `${compared}, on the disk`, value: onDisk, better: 'higher', target: null });
      }
      return [
        label,
        seconds.toFixed(2),
        ((shape.files * shape.fileBytes) / 1e6 / seconds).toPrecision(3),
        (shape.files / seconds).toPrecision(3),
        times(answered),
        median(turns.map(({ onDiskSeconds }) => onDiskSeconds)).toFixed(2),
        times(onDisk),
      ];
    });
    return {
      title: `Upload of ${shape.name}, ${transfers} at a time`,
      columns: ['contender', 'median s', 'MB/s', 'files/s', 'ours is', 's until on the disk', 'ours is'],
      rows,
    };
  });
  const raw = measured.map(({ shape, contender, turns }) => ({
    shape: shape.name,
    contender: contender.name,
    turns,
  }));
  return { part: 'upload', tables: [...tables, syncsOf(measured)], measures, raw };
}

function syncsOf(measured: readonly Measured[]): Table {
  const contenders = new Map(measured.map(({ contender }) => [contender.name, contender]));
  return {
    title: 'What is on the disk for sure when a server has answered',
    columns: ['contender', 'synced'],
    rows: [...contenders.values()].map(({ label, syncs }) => [label, syncs]),
  };
}

/** Of each round its own ratio: what disturbed a round has met both. */
function timesAsFast(ours: readonly Turn[], theirs: readonly Turn[], figure: keyof Turn): number {
  return median(theirs.map((turn, round) => turn[figure] / (ours[round]?.[figure] ?? Number.NaN)));
}

function times(ratio: number): string {
  return Number.isNaN(ratio) ? '-' : `${ratio.toFixed(2)}x as fast`;
}
