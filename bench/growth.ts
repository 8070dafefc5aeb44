/**
 * Does a load take more for each row as a run grows? Seconds per million rows at several sizes, in random order:
 * ours, and (c), a COPY into a table that has its key. Draws the chart, too.
 *
 *   node bench/growth.ts [--sizes 1,5,30,120] [--skip-c-over 30] [--rounds 3] [--svg FILE] [--json FILE]
 *
 * Sizes are in millions of rows, each on a server of its own. Warm as in load.ts. Small sizes are loaded up to
 * `--rounds` times, and tell the median.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type BenchDatabase, startBenchDatabase } from './bench-database.ts';
import { drawGrowth } from './growth/chart.ts';
import { type Point, summarize } from './growth/summary.ts';
import { copyIntoKey, type LoadContender, ours } from './load-contenders.ts';
import { median } from './median.ts';
import { report } from './part-result.ts';
import { quietMachine } from './quiet-machine.ts';
import { writeCopyText, writeScoreFile } from './score-file.ts';

/** Small loads are short, and what disturbs them weighs more: they are repeated until so much has been loaded. */
const ROWS_TO_LOAD = 10e6;

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
if (values.svg !== undefined) await drawGrowth(points, values.svg);
await report(summarize(points), values.json);

async function measureSize(millionRows: number): Promise<Point> {
  const database = await startBenchDatabase();
  try {
    const rows = Math.round(millionRows * 1e6);
    const jsonPath = path.join(database.dir, 'scores.jsonl');
    const textPath = path.join(database.dir, 'rows.txt');
    const data = { jsonPath, textPath, file: await writeScoreFile(jsonPath, rows, 'random') };
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
