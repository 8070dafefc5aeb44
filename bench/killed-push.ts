/**
 * One large file, pushed through two kills: the uploader's at 40 % and, on its second run, the service's at 70 %.
 * Prints what went over the wire against the file's size, what was published, and each process's peak memory.
 *
 *   node bench/killed-push.ts [--rows 27000000]
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { peakMb, waitFor, watchPeaks } from '../e2e/support/programs.ts';
import { startTcpProxy } from '../e2e/support/proxies.ts';
import { startTestSystem } from '../e2e/support/test-system.ts';
import { startBenchServer } from './bench-server.ts';
import { writeScoreFile } from './score-file.ts';

const CHUNK_BYTES = 64 * 1024 * 1024;
const LONG_MS = 20 * 60_000;

const { values } = parseArgs({ options: { rows: { type: 'string', default: '27000000' } } });
const rows = Number(values.rows);
const dir = await mkdtemp(join(process.env.BENCH_DIR ?? tmpdir(), 'ingest-killed-push-'));
const server = await startBenchServer(dir);
process.env.TEST_DATABASE_URL = server.url;
process.env.TMPDIR = dir;
const system = await startTestSystem();
try {
  await mkdir(join(dir, 'out'));
  const file = await writeScoreFile(join(dir, 'out/scores.jsonl'), rows, 'random');
  console.log(`${rows} rows in random order, ${file.bytes} bytes, sha256 ${file.sha256}`);
  let service = await system.startService();
  const loader = system.startLoader();
  const proxy = await startTcpProxy(service.port);
  const args = ['push', join(dir, 'out'), '--model', 'churn', '--run', '2026-11', '--json'];
  const sent = (share: number) =>
    waitFor(`${share * 100} % to be sent`, () => proxy.sentBytes() > file.bytes * share, LONG_MS);

  const startedMs = performance.now();
  const seconds = () => ((performance.now() - startedMs) / 1000).toFixed(1);
  const first = system.startUploader(proxy.url, args);
  await sent(0.4);
  const firstPeak = await peakMb(first.pid);
  await first.kill('SIGKILL');
  console.log(`${seconds()} s: uploader killed, ${share(proxy.sentBytes())} sent`);
  const second = system.startUploader(proxy.url, args);
  await sent(0.7);
  const servicePeak = await peakMb(service.pid);
  await service.kill('SIGKILL');
  console.log(`${seconds()} s: service killed, ${share(proxy.sentBytes())} sent`);
  service = await system.startService();
  proxy.target(service.port);
  await waitFor('all to be received', () => received(file.bytes), LONG_MS);
  const wireBytes = proxy.sentBytes();
  console.log(`${seconds()} s: all received`);
  const { peaks, stop } = watchPeaks({ uploader: second.pid, service: service.pid, loader: loader.pid });
  const { code, stdout, stderr } = await second.ended;
  stop();
  if (code !== 0) throw new Error(`the second push ended with ${code}:\n${stderr}`);
  console.log(`${seconds()} s: published: ${stdout.trim().split('\n').at(-1)}`);

  const again = performance.now();
  const third = await system.runUploader(proxy.url, args);
  console.log(`the same push again: exit ${third.code} after ${Math.round(performance.now() - again)} ms`);
  const [seen] = await system.query<{ rows: number }>('SELECT count(*)::int AS rows FROM scores.churn');
  const [kept] = await system.query<{ sha256: string; upload_id: string }>(
    `SELECT encode(sha256, 'hex') AS sha256, upload_id FROM ingest.run_file`,
  );
  const stored = createHash('sha256');
  await pipeline(createReadStream(join(system.workDir, 'uploads', kept?.upload_id ?? '')), stored);
  const extra = wireBytes - file.bytes;
  console.log(
    `on the wire: ${wireBytes} bytes, ${extra} more than the file; two kills allow ${2 * CHUNK_BYTES}: ${verdict(extra <= 2 * CHUNK_BYTES)}`,
  );
  console.log(`rows published: ${seen?.rows}: ${verdict(seen?.rows === rows)}`);
  console.log(
    `sha256 declared and stored: ${verdict(kept?.sha256 === file.sha256 && stored.digest('hex') === file.sha256)}`,
  );
  console.log(
    `peak resident MB: uploader ${Math.max(firstPeak, peaks.uploader)}, service ${Math.max(servicePeak, peaks.service)}, loader ${peaks.loader}`,
  );
  await proxy.stop();

  function share(bytes: number): string {
    return `${((100 * bytes) / file.bytes).toFixed(1)} %`;
  }
} finally {
  await system.stop();
  await server.stop();
  await rm(dir, { recursive: true, force: true });
}

async function received(bytes: number): Promise<boolean> {
  const [row] = await system.query<{ bytes: number }>(
    'SELECT sum(offset_bytes)::float8 AS bytes FROM ingest.upload',
  );
  return row?.bytes === bytes;
}

function verdict(holds: boolean): string {
  if (!holds) process.exitCode = 1;
  return holds ? 'as promised' : 'BROKEN';
}
