/**
 * From `uploader push` to published, against the upload alone and the load alone; each process's peak memory; and
 * what the status endpoint and the event loop of the service are like while runs are uploaded and one is loaded.
 *
 *   node bench/whole-path.ts [--rows 5000000] [--beside-rows 5000000] [--rounds 1] [--json FILE]
 *
 * Keys are in random order. Warm: the file is in the page cache, PostgreSQL and the service run; the uploader starts
 * anew for each push and hashes the file each time.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { peakMb } from '../e2e/support/programs.ts';
import { startBenchServer } from './bench-server.ts';
import { report } from './part-result.ts';
import { type PathSystem, startPathSystem } from './path/path-system.ts';
import { probeDuring } from './path/service-probe.ts';
import { type PathFigures, type PathRound, summarize } from './path/summary.ts';
import { quietMachine } from './quiet-machine.ts';
import { writeScoreFile } from './score-file.ts';

const IDLE_FOR_MS = 2_000;

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    'beside-rows': { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});
const rows = Number(values.rows);

const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'path-bench-'));
const server = await startBenchServer(dir);
process.env.TEST_DATABASE_URL = server.url; // where the system makes its database
process.env.TMPDIR = dir;
const sourceDir = path.join(dir, 'out');
const sourcePath = path.join(sourceDir, 'scores.jsonl');
await mkdir(sourceDir);
const peaks = { uploader: 0, service: 0, loader: 0 };
try {
  const system = await startPathSystem(sourceDir);
  try {
    await report(summarize(await measure(system)), values.json);
  } finally {
    await system.stop();
  }
} finally {
  await server.stop();
  await rm(dir, { recursive: true, force: true });
}

async function measure(system: PathSystem): Promise<PathFigures> {
  const { bytes } = await writeScoreFile(sourcePath, rows, 'random');
  const idle = await probeDuring(system, delay(IDLE_FOR_MS));
  const rounds: PathRound[] = [];
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    rounds.push(await measureRound(system, round));
    console.log(`  round ${round}: ${JSON.stringify(rounds.at(-1))}`);
  }
  await writeScoreFile(sourcePath, Number(values['beside-rows']), 'random');
  const busy = await probeBusy(system);
  peaks.service = await peakMb(system.servicePid);
  return { rows, bytes, rounds, peakMb: peaks, idle, busy };
}

async function measureRound(system: PathSystem, round: number): Promise<PathRound> {
  await quietMachine([sourcePath]);
  const alone = await system.push(`alone_${round}`, '--no-wait');
  await quietMachine(await system.uploadedFiles());
  const loader = system.startLoader();
  const loadSeconds = await system.loadSeconds(`alone_${round}`);
  await system.removeUploads();
  await quietMachine([sourcePath]);
  const whole = await system.push(`whole_${round}`);
  peaks.uploader = Math.max(peaks.uploader, alone.peakMb, whole.peakMb);
  peaks.loader = Math.max(peaks.loader, await peakMb(loader.pid));
  await loader.kill('SIGTERM');
  await system.removeUploads();
  return { uploadSeconds: alone.seconds, loadSeconds, wholeSeconds: whole.seconds };
}

/** One run is loaded, and as long as that takes others are uploaded, one after the other. */
async function probeBusy(system: PathSystem) {
  await system.push('beside', '--no-wait');
  const loader = system.startLoader();
  let isLoaded = false;
  const loaded = system.loadSeconds('beside').finally(() => {
    isLoaded = true;
  });
  const pushing = (async () => {
    for (let push = 1; !isLoaded; push += 1) await system.push(`pushed_${push}`, '--no-wait');
  })();
  const probed = await probeDuring(system, Promise.race([loaded, pushing]));
  await Promise.all([loaded, pushing]);
  await loader.kill('SIGTERM');
  return probed;
}
