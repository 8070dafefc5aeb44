/**
 * Whether a load takes longer per row as a run grows: seconds per million rows at several sizes, in random order, ours
 * and (c), a COPY into a table that has its key. Also draws the chart.
 *
 *   node bench/growth.ts [--sizes 1,5,30,120] [--skip-c-over 30] [--rounds 3] [--svg FILE] [--json FILE]
 *
 * Sizes are in millions of rows, each on its own server. Warm, as in load.ts. Small sizes are loaded up to `--rounds`
 * times, and the median counts.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { init } from 'echarts';
import { type BenchDatabase, startBenchDatabase } from './database.ts';
import { copyIntoKey, type LoadContender, ours } from './load-contenders.ts';
import { quietMachine } from './quiet-machine.ts';
import { type Measure, median, type PartResult, report } from './result.ts';
import { writeCopyText, writeScoreFile } from './score-file.ts';

/** A disturbance changes a short load more than a long one, so small sizes are loaded until this many rows. */
const ROWS_TO_LOAD = 10e6;

const LABELS = {
  ours: 'score-ingest, every check on',
  copyIntoKey: '(c) COPY into a table that has its key',
} as const;
type Contender = keyof typeof LABELS;

/** One size, and the seconds of each load of it. */
interface Point {
  readonly millionRows: number;
  readonly ours: readonly number[];
  /** Empty above `--skip-c-over`. */
  readonly copyIntoKey: readonly number[];
}

const { values } = parseArgs({
  options: {
    sizes: { type: 'string', default: '1,5,30,120' },
    'skip-c-over': { type: 'string', default: '30' },
    rounds: { type: 'string', default: '3' },
    svg: { type: 'string' },
    json: { type: 'string' },
  },
});
const mostRounds = Number(values.rounds);
const largestForC = Number(values['skip-c-over']);

const points: Point[] = [];
for (const size of values.sizes.split(',')) points.push(await measureSize(Number(size)));
if (values.svg !== undefined) await drawChart(values.svg);
await report(summarize(), values.json);

async function measureSize(millionRows: number): Promise<Point> {
  const database = await startBenchDatabase();
  try {
    const rows = Math.round(millionRows * 1e6);
    const jsonPath = path.join(database.dir, 'scores.jsonl');
    const textPath = path.join(database.dir, 'rows.txt');
    const data = {
      jsonPath,
      textPath,
      file: await writeScoreFile(jsonPath, rows, 'random'),
      set: 'plain' as const,
    };
    const rounds = Math.min(mostRounds, Math.max(1, Math.round(ROWS_TO_LOAD / rows)));
    const ourSeconds = await measure(database, ours(database, data), jsonPath, millionRows, rounds);
    if (millionRows > largestForC) return { millionRows, ours: ourSeconds, copyIntoKey: [] };
    await writeCopyText(textPath, rows, 'random');
    const theirs = await measure(database, copyIntoKey(database, data), textPath, millionRows, 1);
    return { millionRows, ours: ourSeconds, copyIntoKey: theirs };
  } finally {
    await database.stop();
  }
}

async function measure(
  { client }: BenchDatabase,
  contender: LoadContender,
  fileToRead: string,
  millionRows: number,
  rounds: number,
): Promise<number[]> {
  const seconds: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    await client.query('CHECKPOINT');
    await quietMachine([fileToRead]);
    seconds.push((await contender.run(round)).seconds);
  }
  console.log(`  ${millionRows} M rows: ${median(seconds).toFixed(2)} s  ${contender.label}`);
  return seconds;
}

function summarize(): PartResult {
  const rows = points.map((point) => {
    const [ours, theirs] = [secondsPerMillion(point, 'ours'), secondsPerMillion(point, 'copyIntoKey')];
    return [
      `${point.millionRows} M`,
      ours.toFixed(3),
      Number.isNaN(theirs) ? '-' : theirs.toFixed(3),
      Number.isNaN(theirs) ? '-' : (ours / theirs).toFixed(2),
    ];
  });
  const table = {
    title: 'Seconds per million rows as a run grows, random keys',
    columns: ['rows', LABELS.ours, LABELS.copyIntoKey, 'ours / (c)'],
    rows,
  };
  const measures = ourGrowth();
  return { part: 'growth', tables: [table], measures, raw: points };
}

function ourGrowth(): Measure[] {
  const [smallest, largest] = [points.at(0), points.at(-1)];
  if (smallest === undefined || largest === undefined || smallest === largest) return [];
  return [
    {
      name: `growth: ours, seconds per row at ${largest.millionRows} M / at ${smallest.millionRows} M`,
      value: secondsPerMillion(largest, 'ours') / secondsPerMillion(smallest, 'ours'),
      better: 'lower',
      target: null,
    },
  ];
}

/** NaN when the size was not loaded. */
function secondsPerMillion(point: Point, contender: Contender): number {
  return median(point[contender]) / point.millionRows;
}

/** Writes one line per contender over the sizes, as an SVG file without external references. */
async function drawChart(svgPath: string): Promise<void> {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 760, height: 400 });
  const line = (contender: Contender) => ({
    name: LABELS[contender],
    type: 'line' as const,
    symbol: 'circle',
    symbolSize: 8,
    lineStyle: { width: 2 },
    label: {
      show: true,
      position: 'top' as const,
      formatter: ({ value }: { value: unknown }) => Number(value).toFixed(2),
    },
    // null leaves a gap.
    data: points.map((point) => (point[contender].length > 0 ? secondsPerMillion(point, contender) : null)),
  });
  const axis = (name: string, nameGap: number) => ({ name, nameLocation: 'middle' as const, nameGap });
  const sizes = points.map(({ millionRows }) => String(millionRows));
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff', // also on a dark page
    color: ['#1d6fb8', '#c2571a'],
    textStyle: { fontFamily: 'sans-serif' },
    legend: { top: 8, itemGap: 48 }, // wide, because without a browser the texts are measured too short
    grid: { left: 64, right: 24, top: 48, bottom: 56 },
    xAxis: { type: 'category', data: sizes, ...axis('million rows, random keys', 32) },
    yAxis: { type: 'value', min: 0, ...axis('seconds per million rows', 40) },
    series: [line('ours'), line('copyIntoKey')],
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  await writeFile(svgPath, `${svg}\n`);
}
