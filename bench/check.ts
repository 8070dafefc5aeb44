/**
 * `uploader check` of one large file, as a whole process, against `sha256sum` of the same file: in turn, with the file
 * in the page cache. The best round of each counts, because other programs can only make a round slower.
 *
 *   node bench/check.ts [--rows 27000000] [--rounds 5]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { makeBenchDir } from './database.ts';
import { writeScoreFile } from './score-file.ts';

const UPLOADER = fileURLToPath(new URL('../apps/uploader/bin/uploader.js', import.meta.url));

const { values } = parseArgs({
  options: { rows: { type: 'string', default: '27000000' }, rounds: { type: 'string', default: '5' } },
});
const dir = await makeBenchDir();
try {
  const path = join(dir, 'scores.jsonl');
  const { bytes, rows } = await writeScoreFile(path, Number(values.rows), 'random');
  const checkArgs = ['check', dir, '--model', 'churn', '--run', '2026-11'];
  const best = { check: Number.POSITIVE_INFINITY, sha256sum: Number.POSITIVE_INFINITY };
  for (let round = 0; round < Number(values.rounds); round += 1) {
    best.sha256sum = Math.min(best.sha256sum, await seconds('sha256sum', [path]));
    best.check = Math.min(best.check, await seconds(process.execPath, [UPLOADER, ...checkArgs]));
  }
  const rate = (bestSeconds: number): string => `${(bytes / bestSeconds / 1e6).toFixed(0)} MB/s`;
  console.log(`${rows} lines, ${bytes} bytes, best of ${values.rounds} rounds, Node ${process.version}:`);
  console.log(`uploader check  ${best.check.toFixed(2)} s  ${rate(best.check)}`);
  console.log(`sha256sum       ${best.sha256sum.toFixed(2)} s  ${rate(best.sha256sum)}`);
  console.log(`check takes ${(best.check / best.sha256sum).toFixed(2)} of the time of sha256sum`);
} finally {
  await rm(dir, { recursive: true, force: true });
}

async function seconds(program: string, args: string[]): Promise<number> {
  const startedMs = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${program} ended with ${code}.`);
  return (performance.now() - startedMs) / 1000;
}
