import { median } from '../median.ts';
import type { Measure, PartResult } from '../part-result.ts';

/** A size, and the seconds that each of its loads took. */
export interface Point {
  readonly millionRows: number;
  readonly ours: readonly number[];
  /** Empty where it was left out. */
  readonly copyIntoKey: readonly number[];
}

export const LABELS = {
  ours: 'score-ingest, every check on',
  copyIntoKey: '(c) COPY into a table that has its key',
} as const;

/** NaN where nothing was loaded. */
export function secondsPerMillion(point: Point, contender: keyof typeof LABELS): number {
  return median(point[contender]) / point.millionRows;
}

export function summarize(points: readonly Point[]): PartResult {
  const rows = points.map((point) => {
    const [ours, theirs] = [secondsPerMillion(point, 'ours'), secondsPerMillion(point, 'copyIntoKey')];
    return [
      `${point.millionRows} M`,
      ours.toFixed(3),
      Number.isNaN(theirs) ? '-' : theirs.toFixed(3),
      Number.isNaN(theirs) ? '-' : (ours / theirs).toFixed(2),
    ];
  });
  const measures = (['ours', 'copyIntoKey'] as const).flatMap((contender) => growthOf(points, contender));
  const table = {
    title: 'Seconds per million rows as a run grows, random keys',
    columns: ['rows', LABELS.ours, LABELS.copyIntoKey, 'ours / (c)'],
    rows,
  };
  return { part: 'growth', tables: [table], measures, raw: points };
}

function growthOf(points: readonly Point[], contender: keyof typeof LABELS): Measure[] {
  const there = points.filter((point) => point[contender].length > 0);
  const [smallest, largest] = [there.at(0), there.at(-1)];
  if (smallest === undefined || largest === undefined || smallest === largest) return [];
  return [
    {
      name: `growth: ${contender}, seconds per row at ${largest.millionRows} M / at ${smallest.millionRows} M`,
      value: secondsPerMillion(largest, contender) / secondsPerMillion(smallest, contender),
      better: 'lower',
      target: null,
    },
  ];
}
