import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const SAMPLES = [
  { model: 'churn', run: '2026-11', rows: 200_000, files: 2, seed: 11 },
  { model: 'fraud', run: '2026-11', rows: 100_000, files: 1, seed: 22 },
  { model: 'propensity', run: '2026-11', rows: 50_000, files: 1, seed: 33 },
];

/** A prime above every number of rows: i * step modulo it visits each key once, in no order. */
const KEY_SPACE = 999_983;
const FIRST_KEY = 10_000_000;

/** The samples as `samples/<model>/<run>/part-*.jsonl`. Always the same bytes, so that a second push finds them known. */
export async function writeSampleRuns(home: string): Promise<string> {
  const dir = join(home, 'samples');
  if (existsSync(dir)) return dir;
  console.log('lab: writing sample runs of three models');
  const unfinishedDir = `${dir}.${process.pid}.unfinished`;
  for (const sample of SAMPLES) await writeRun(unfinishedDir, sample);
  await rename(unfinishedDir, dir).catch(async (error: NodeJS.ErrnoException) => {
    await rm(unfinishedDir, { recursive: true });
    // Another lab was faster, with the same bytes.
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
  });
  return dir;
}

async function writeRun(dir: string, sample: (typeof SAMPLES)[number]): Promise<void> {
  const runDir = join(dir, sample.model, sample.run);
  await mkdir(runDir, { recursive: true });
  const random = seeded(sample.seed);
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

/** Mulberry32: a few lines, the same numbers on every machine. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
