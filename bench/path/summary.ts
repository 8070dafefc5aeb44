import { median } from '../median.ts';
import type { Measure, PartResult } from '../part-result.ts';
import type { Table } from '../table.ts';
import type { Probed } from './service-probe.ts';

/** What is promised at 4.5 GB. */
const PEAK_TARGET_MB = 200;

export interface PathRound {
  /** `uploader push --no-wait`, with no loader. */
  readonly uploadSeconds: number;
  /** From claim to publication, with nothing else going on. */
  readonly loadSeconds: number;
  /** `uploader push`, until it says that the run is published. */
  readonly wholeSeconds: number;
}

export interface PathFigures {
  readonly rows: number;
  readonly bytes: number;
  readonly rounds: readonly PathRound[];
  readonly peakMb: { readonly uploader: number; readonly service: number; readonly loader: number };
  readonly idle: Probed;
  readonly busy: Probed;
}

export function summarize(figures: PathFigures): PartResult {
  const { rows, bytes, rounds, peakMb } = figures;
  const share = median(rounds.map((it) => it.wholeSeconds / (it.uploadSeconds + it.loadSeconds)));
  const measures: Measure[] = [
    { name: 'path: push to published / (upload + load)', value: share, better: 'lower', target: null },
    ...Object.entries(peakMb).map(
      ([name, value]): Measure => ({
        name: `path: peak resident MB of the ${name}`,
        value,
        better: 'lower',
        target: PEAK_TARGET_MB,
      }),
    ),
  ];
  const seconds = (figure: keyof PathRound) => median(rounds.map((it) => it[figure])).toFixed(2);
  const whole: Table = {
    title: `From push to published: ${rows.toLocaleString('en')} rows, ${(bytes / 1e6).toFixed(0)} MB`,
    columns: ['what', 'median s'],
    rows: [
      ['upload alone (`uploader push --no-wait`, hashing included)', seconds('uploadSeconds')],
      ['load alone (claim to publication)', seconds('loadSeconds')],
      ['`uploader push` until it says "published"', seconds('wholeSeconds')],
      ['the last against the sum of the first two', `${share.toFixed(2)}x`],
    ],
  };
  const memory: Table = {
    title: 'Peak resident memory (VmHWM) of each process over all of this',
    columns: ['process', 'MB'],
    rows: Object.entries(peakMb).map(([name, value]) => [name, value.toFixed(0)]),
  };
  return {
    part: 'path',
    tables: [whole, memory, responsiveness(figures)],
    measures,
    raw: figures,
  };
}

function responsiveness({ idle, busy }: PathFigures): Table {
  const row = (name: string, { statusMs, eventLoopMs }: Probed) => [
    name,
    statusMs.length.toFixed(0),
    ...[percentile(statusMs, 0.5), percentile(statusMs, 0.99)].map((ms) => ms.toFixed(1)),
    ...[eventLoopMs.p50, eventLoopMs.p99, eventLoopMs.max].map((ms) => ms.toFixed(1)),
  ];
  return {
    title: 'Milliseconds that `GET /v1/status` takes, and the delay of the event loop of the service',
    columns: ['while', 'requests', 'status p50', 'status p99', 'loop p50', 'loop p99', 'loop most'],
    rows: [row('nothing happens', idle), row('one run loads and others are uploaded', busy)],
    notes: ["Node's histogram of the loop has a resolution of 10 ms: a loop without delay stands near 10."],
  };
}

export function percentile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
