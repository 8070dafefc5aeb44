/**
 * A run of many small files, pushed to a real service: how long it takes and how much memory it needs, by number of
 * files and of transfers. A time that grows faster than the files is a fault.
 *
 *   node bench/small-files.ts [--files 2500,10000] [--transfers 4,8] [--rows 10]
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startPostgres } from 'local-postgres';
import { watchPeaks } from '../e2e/support/programs.ts';
import { startTestSystem } from '../e2e/support/test-system.ts';

const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '2500,10000' },
    transfers: { type: 'string', default: '4,8' },
    rows: { type: 'string', default: '10' },
  },
});
const numbers = (text: string): number[] => text.split(',').map(Number);
const rowsPerFile = Number(values.rows);

const dir = await mkdtemp(join(process.env.BENCH_DIR ?? tmpdir(), 'ingest-small-files-'));
const postgres = await startPostgres({ dataDir: join(dir, 'postgres') });
process.env.TEST_DATABASE_URL = postgres.superuserUrl;
process.env.TMPDIR = dir;
const system = await startTestSystem();
try {
  const service = await system.startService();
  const loader = system.startLoader();
  const columns = ['files', 'transfers', 'pushed and published in s', 'ms a file', 'again, in s'];
  const peakColumns = ['peak MB: uploader', 'service', 'loader'];
  console.log(`| ${[...columns, ...peakColumns].join(' | ')} |\n|${'---|'.repeat(8)}`);
  for (const files of numbers(values.files)) {
    for (const transfers of numbers(values.transfers)) console.log(await pushFiles(files, transfers));
  }

  async function pushFiles(files: number, transfers: number): Promise<string> {
    const run = `${files}-by-${transfers}`;
    const folder = join(dir, run);
    await mkdir(folder);
    await writeFiles(folder, files, transfers);
    const args = [
      'push',
      folder,
      '--model',
      'churn',
      '--run',
      run,
      '--transfers',
      String(transfers),
      '--json',
    ];
    const first = await push(args);
    const again = await push(args);
    await rm(folder, { recursive: true });
    const ms = ((first.seconds * 1000) / files).toFixed(2);
    const { uploader, service: served, loader: loaded } = first.peaks;
    return `| ${[files, transfers, first.seconds.toFixed(1), ms, again.seconds.toFixed(1), uploader, served, loaded].join(' | ')} |`;
  }

  async function push(args: string[]) {
    const startedMs = performance.now();
    const uploader = system.startUploader(service.url, args);
    const { peaks, stop } = watchPeaks({ uploader: uploader.pid, service: service.pid, loader: loader.pid });
    const { code, stderr } = await uploader.ended;
    stop();
    if (code !== 0) throw new Error(`The push ended with ${code}:\n${stderr}`);
    return { seconds: (performance.now() - startedMs) / 1000, peaks };
  }
} finally {
  await system.stop();
  await postgres.stop();
  await rm(dir, { recursive: true, force: true });
}

/** Different content in each, also from one round to the next, as the service keeps equal content once. */
async function writeFiles(folder: string, files: number, round: number): Promise<void> {
  for (let index = 0; index < files; index += 1) {
    let text = '';
    for (let row = 0; row < rowsPerFile; row += 1) {
      text += `{ "pk": "${index * rowsPerFile + row}", "score": "${round}.${row}" }\n`;
    }
    await writeFile(join(folder, `part-${index}.jsonl`), text);
  }
}
