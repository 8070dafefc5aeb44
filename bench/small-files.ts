/**
 * A run of many small files, pushed to a real service: time and memory by number of files and of transfers. A time that
 * grows faster than the number of files is a fault.
 *
 *   node bench/small-files.ts [--files 2500,10000] [--transfers 4,8] [--rows 10]
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { watchPeaks } from '../e2e/support/programs.ts';
import { withBenchSystem } from './database.ts';
import { formatTable } from './result.ts';

const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '2500,10000' },
    transfers: { type: 'string', default: '4,8' },
    rows: { type: 'string', default: '10' },
  },
});
const numbers = (text: string): number[] => text.split(',').map(Number);
const rowsPerFile = Number(values.rows);

await withBenchSystem(async (system) => {
  const service = await system.startService();
  const loader = system.startLoader();
  const table: string[][] = [];
  for (const files of numbers(values.files))
    for (const transfers of numbers(values.transfers)) table.push(await pushFiles(files, transfers));
  const columns = ['files', 'transfers', 'pushed and published in s', 'ms a file', 'again, in s'];
  const peakColumns = ['peak MB: uploader', 'service', 'loader'];
  const title = `Runs of small files, ${rowsPerFile} rows each`;
  console.log(`\n${formatTable({ title, columns: [...columns, ...peakColumns], rows: table })}`);

  async function pushFiles(files: number, transfers: number): Promise<string[]> {
    const run = `${files}-by-${transfers}`;
    const folder = join(system.workDir, run);
    await mkdir(folder);
    await writeFiles(folder, files, transfers);
    const options = ['--model', 'churn', '--run', run, '--transfers', String(transfers), '--json'];
    const first = await push(['push', folder, ...options]);
    const again = await push(['push', folder, ...options]);
    await rm(folder, { recursive: true });
    console.log(`  ${files} files, ${transfers} at a time: ${first.seconds.toFixed(1)} s`);
    const figures = [first.seconds.toFixed(1), ((first.seconds * 1000) / files).toFixed(2)];
    const { uploader, service: ofService, loader: ofLoader } = first.peaks;
    return [files, transfers, ...figures, again.seconds.toFixed(1), uploader, ofService, ofLoader].map(
      String,
    );
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
});

/** Every file of every round differs, because the service stores equal content once. */
async function writeFiles(folder: string, files: number, round: number): Promise<void> {
  for (let index = 0; index < files; index += 1) {
    let text = '';
    for (let row = 0; row < rowsPerFile; row += 1) {
      text += `{ "pk": "${index * rowsPerFile + row}", "score": "${round}.${row}" }\n`;
    }
    await writeFile(join(folder, `part-${index}.jsonl`), text);
  }
}
