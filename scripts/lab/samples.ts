import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { seededRandom } from '../../e2e/support/score-file.ts';

const SAMPLES = [
  { model: 'churn', run: '2026-11', rows: 200_000, files: 2, seed: 11 },
  { model: 'fraud', run: '2026-11', rows: 100_000, files: 1, seed: 22 },
  { model: 'propensity', run: '2026-11', rows: 50_000, files: 1, seed: 33 },
];

/** A prime above every number of rows, so that i * step modulo it visits each key once, in no order. */
const KEY_SPACE = 999_983;
const FIRST_KEY = 10_000_000;

/** Writes the samples as `samples/<model>/<run>/part-*.jsonl`. Always the same bytes, so a second push sends nothing. */
export async function writeSampleRuns(home: string): Promise<string> {
  const dir = join(home, 'samples');
  if (existsSync(dir)) return dir;
  console.log('lab: writing sample runs of three models');
  const unfinishedDir = `${dir}.${process.pid}.unfinished`;
  for (const sample of SAMPLES) await writeRun(unfinishedDir, sample);
  await rename(unfinishedDir, dir).catch(async (error: NodeJS.ErrnoException) => {
    await rm(unfinishedDir, { recursive: true });
    // Another lab has written the same bytes in the meantime.
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
  });
  return dir;
}

async function writeRun(dir: string, sample: (typeof SAMPLES)[number]): Promise<void> {
  const runDir = join(dir, sample.model, sample.run);
  await mkdir(runDir, { recursive: true });
  const random = seededRandom(sample.seed);
  const rowsPerFile = sample.rows / sample.files;
  for (let file = 0; file < sample.files; file += 1) {
    const lines: string[] = [];
    for (let i = file * rowsPerFile; i < (file + 1) * rowsPerFile; i += 1) {
      const key = FIRST_KEY + ((i * 48_271 * sample.seed) % KEY_SPACE);
      lines.push(`{ "pk": "${key}", "score": "${(random() * 100).toFixed(2)}" }\n`);
    }
    await writeFile(join(runDir, `part-${file + 1}.jsonl`), lines.join(''));
  }
}
