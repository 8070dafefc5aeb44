/**
 * One large file, pushed through two kills: of the uploader at 40 %, and of the service at 70 %. Prints the bytes on the
 * wire against the size of the file, what was published, and the peak memory of each process.
 *
 *   node bench/killed-push.ts [--rows 27000000] [--store s3]
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { testS3 } from 'local-s3';
import { peakMb, waitFor, watchPeaks } from '../e2e/support/programs.ts';
import { startTcpProxy } from '../e2e/support/proxies.ts';
import { withBenchSystem } from './database.ts';
import { writeScoreFile } from './score-file.ts';

const CHUNK_BYTES = 64 * 1024 * 1024;
const WITHIN_MS = 20 * 60_000;

const { values } = parseArgs({
  options: { rows: { type: 'string', default: '27000000' }, store: { type: 'string', default: 'folder' } },
});
const rows = Number(values.rows);
const bucket = values.store === 's3' ? await testS3() : undefined;

await withBenchSystem(async (system) => {
  const sourceDir = join(system.workDir, 'out');
  await mkdir(sourceDir);
  const file = await writeScoreFile(join(sourceDir, 'scores.jsonl'), rows, 'random');
  console.log(`${rows} rows in random order, ${file.bytes} bytes, sha256 ${file.sha256}`);
  let service = await system.startService();
  const loader = system.startLoader();
  const proxy = await startTcpProxy(service.port);
  const args = ['push', sourceDir, '--model', 'churn', '--run', '2026-11', '--json', '--compress', 'off'];

  const startedMs = performance.now();
  const log = (what: string) =>
    console.log(`${((performance.now() - startedMs) / 1000).toFixed(1)} s: ${what}`);
  const percentSent = () => `${((100 * proxy.sentBytes()) / file.bytes).toFixed(1)} % sent`;
  const sent = (share: number) =>
    waitFor(`${share * 100} % to be sent`, () => proxy.sentBytes() > file.bytes * share, WITHIN_MS);

  const first = system.startUploader(proxy.url, args);
  await sent(0.4);
  const firstPeak = await peakMb(first.pid);
  await first.kill('SIGKILL');
  log(`uploader killed, ${percentSent()}`);
  const second = system.startUploader(proxy.url, args);
  await sent(0.7);
  const servicePeak = await peakMb(service.pid);
  await service.kill('SIGKILL');
  log(`service killed, ${percentSent()}`);
  service = await system.startService();
  proxy.target(service.port);
  await waitFor('all to be received', isReceived, WITHIN_MS);
  const wireBytes = proxy.sentBytes();
  log('all received');
  const { peaks, stop } = watchPeaks({ uploader: second.pid, service: service.pid, loader: loader.pid });
  const { code, stdout, stderr } = await second.ended;
  stop();
  if (code !== 0) throw new Error(`The second push ended with ${code}:\n${stderr}`);
  log(`published: ${stdout.trim().split('\n').at(-1)}`);

  const againMs = performance.now();
  const third = await system.runUploader(proxy.url, args);
  console.log(`the same push again: exit ${third.code} after ${Math.round(performance.now() - againMs)} ms`);
  const [published] = await system.query<{ rows: number }>('SELECT count(*)::int AS rows FROM scores.churn');
  const [declared] = await system.query<{ sha256: string; upload_id: string; keys: string[] }>(
    `SELECT encode(sha256, 'hex') AS sha256, upload_id, ARRAY(
       SELECT object_key FROM ingest.upload_segment AS segment WHERE segment.upload_id = run_file.upload_id ORDER BY from_byte) AS keys
     FROM ingest.run_file`,
  );
  const stored = createHash('sha256');
  if (bucket === undefined)
    await pipeline(createReadStream(join(system.workDir, 'uploads', declared?.upload_id ?? '')), stored);
  else for (const key of declared?.keys ?? []) stored.update(await system.store.read(key));
  const extra = wireBytes - file.bytes;
  const isIntact = declared?.sha256 === file.sha256 && stored.digest('hex') === file.sha256;
  console.log(
    `on the wire: ${wireBytes} bytes, ${extra} more than the file; two kills allow ${2 * CHUNK_BYTES}: ${verdict(extra <= 2 * CHUNK_BYTES)}`,
  );
  console.log(`rows published: ${published?.rows}: ${verdict(published?.rows === rows)}`);
  console.log(`sha256 declared and stored: ${verdict(isIntact)}`);
  console.log(
    `peak resident MB: uploader ${Math.max(firstPeak, peaks.uploader)}, service ${Math.max(servicePeak, peaks.service)}, loader ${peaks.loader}`,
  );
  await proxy.stop();

  async function isReceived(): Promise<boolean> {
    const [row] = await system.query<{ bytes: number }>(
      'SELECT sum(offset_bytes)::float8 AS bytes FROM ingest.upload',
    );
    return row?.bytes === file.bytes;
  }
}, bucket);

function verdict(holds: boolean): string {
  if (!holds) process.exitCode = 1;
  return holds ? 'as promised' : 'BROKEN';
}
