/**
 * From `uploader push` to published, against the upload alone and the load alone. Also measures the peak memory of each
 * process, and the status endpoint and the event loop of the service while runs are uploaded and one is loaded.
 *
 *   node bench/whole-path.ts [--rows 5000000] [--beside-rows 5000000] [--rounds 1] [--json FILE]
 *
 * Keys are in random order. Warm: the file is in the page cache, PostgreSQL and the service run. Each push starts a new
 * uploader, which hashes the file.
 */
import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { peakMb, waitFor, watchPeaks } from '../e2e/support/programs.ts';
import type { Service, TestSystem } from '../e2e/support/test-system.ts';
import { withBenchSystem } from './database.ts';
import { emptyFolder, quietMachine } from './quiet-machine.ts';
import { type Measure, median, type PartResult, percentile, report, type Table } from './result.ts';
import { writeScoreFile } from './score-file.ts';

const IDLE_FOR_MS = 2_000;
/** Rare enough not to slow the service. */
const STATUS_EVERY_MS = 50;
const PUBLISHED_WITHIN_MS = 60 * 60_000;
/** Promised at 4.5 GB. */
const PEAK_TARGET_MB = 200;

interface Round {
  /** `uploader push --no-wait`, without a loader. */
  readonly uploadSeconds: number;
  /** From claim to publication, while nothing else runs. */
  readonly loadSeconds: number;
  /** `uploader push`, until it prints that the run is published. */
  readonly wholeSeconds: number;
}

interface Probed {
  /** The time of each answer of `GET /v1/status`. */
  readonly statusMs: readonly number[];
  /** Node's histogram of the event loop delay. An idle loop has 10 ms, the resolution of the histogram. */
  readonly eventLoopMs: { readonly p50: number; readonly p99: number; readonly max: number };
}

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    'beside-rows': { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});
const rows = Number(values.rows);

await withBenchSystem(async (system) => report(await measure(system), values.json));

async function measure(system: TestSystem): Promise<PartResult> {
  const service = await system.startService();
  const sourceDir = path.join(system.workDir, 'out');
  const sourcePath = path.join(sourceDir, 'scores.jsonl');
  const uploadsDir = path.join(system.workDir, 'uploads');
  await mkdir(sourceDir);
  const { bytes } = await writeScoreFile(sourcePath, rows, 'random');
  const peaks = { uploader: 0, service: 0, loader: 0 };
  const idle = await probeDuring(service, system.token, delay(IDLE_FOR_MS));
  const rounds: Round[] = [];
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    rounds.push(await measureRound(round));
    console.log(`  round ${round}: ${JSON.stringify(rounds.at(-1))}`);
  }
  await writeScoreFile(sourcePath, Number(values['beside-rows']), 'random');
  const busy = await probeBusy();
  peaks.service = await peakMb(service.pid);
  return summarize(bytes, rounds, peaks, idle, busy);

  async function measureRound(round: number): Promise<Round> {
    await quietMachine([sourcePath]);
    const uploadSeconds = await push(`alone_${round}`, '--no-wait');
    await quietMachine((await readdir(uploadsDir)).map((name) => path.join(uploadsDir, name)));
    const loader = system.startLoader();
    const loadSeconds = await loadSecondsOf(system, `alone_${round}`);
    await emptyFolder(uploadsDir);
    await quietMachine([sourcePath]);
    const wholeSeconds = await push(`whole_${round}`);
    peaks.loader = Math.max(peaks.loader, await peakMb(loader.pid));
    await loader.kill('SIGTERM');
    await emptyFolder(uploadsDir);
    return { uploadSeconds, loadSeconds, wholeSeconds };
  }

  /** Probes while one run is loaded and others are uploaded, one after the other. */
  async function probeBusy(): Promise<Probed> {
    await push('beside', '--no-wait');
    const loader = system.startLoader();
    let isLoaded = false;
    const loaded = loadSecondsOf(system, 'beside').finally(() => {
      isLoaded = true;
    });
    const pushing = (async () => {
      for (let number = 1; !isLoaded; number += 1) await push(`pushed_${number}`, '--no-wait');
    })();
    const probed = await probeDuring(service, system.token, Promise.race([loaded, pushing]));
    await Promise.all([loaded, pushing]);
    await loader.kill('SIGTERM');
    return probed;
  }

  /** @returns seconds of the whole program, hashing included. */
  async function push(model: string, ...args: string[]): Promise<number> {
    const startedMs = performance.now();
    const uploader = system.startUploader(
      service.url,
      ['push', sourceDir, '--model', model, '--run', 'bench', '--json', ...args],
      { UPLOADER_STATE_DIR: path.join(system.workDir, 'state', model) }, // so that no hash is known from an earlier push
    );
    const watched = watchPeaks({ uploader: uploader.pid });
    const { code, stderr } = await uploader.ended;
    const seconds = (performance.now() - startedMs) / 1000;
    watched.stop();
    peaks.uploader = Math.max(peaks.uploader, watched.peaks.uploader);
    if (code !== 0) throw new Error(`The push of ${model} ended with ${code}:\n${stderr}`);
    return seconds;
  }
}

/** Waits for the publication. @returns seconds from claim to publication. */
function loadSecondsOf(system: TestSystem, model: string): Promise<number> {
  return waitFor(
    `${model} to be published`,
    async () => {
      const [attempt] = await system.query<{ outcome: string | null; error: string | null; seconds: number }>(
        `SELECT outcome, a.error, extract(epoch FROM finished_at - started_at)::float8 AS seconds
         FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id) WHERE model = $1`,
        [model],
      );
      if (attempt?.outcome === 'published') return attempt.seconds;
      if (attempt?.outcome != null)
        throw new Error(
          `The load of ${model} ended as ${attempt.outcome}: ${attempt.error ?? 'no reason recorded'}`,
        );
      return undefined;
    },
    PUBLISHED_WITHIN_MS,
  );
}

/** Repeats `GET /v1/status` until `work` has ended. */
async function probeDuring({ url }: Service, token: string, work: Promise<unknown>): Promise<Probed> {
  const headers = { authorization: `Bearer ${token}` };
  const metrics = async () => (await fetch(`${url}/metrics`, { headers })).text();
  await metrics(); // each reading restarts the histogram
  const statusMs: number[] = [];
  let isOver = false;
  const end = () => {
    isOver = true;
  };
  work.then(end, end);
  while (!isOver) {
    const startedMs = performance.now();
    const response = await fetch(`${url}/v1/status`, { headers });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`GET ${url}/v1/status answered ${response.status}.`);
    statusMs.push(performance.now() - startedMs);
    await delay(STATUS_EVERY_MS);
  }
  await work;
  const text = await metrics();
  const lagMs = (name: string) => {
    const [, seconds] = new RegExp(`^nodejs_eventloop_lag_${name}_seconds (\\S+)`, 'm').exec(text) ?? [];
    return Number(seconds) * 1000;
  };
  return { statusMs, eventLoopMs: { p50: lagMs('p50'), p99: lagMs('p99'), max: lagMs('max') } };
}

function summarize(
  bytes: number,
  rounds: readonly Round[],
  peaks: Readonly<Record<'uploader' | 'service' | 'loader', number>>,
  idle: Probed,
  busy: Probed,
): PartResult {
  const share = median(rounds.map((it) => it.wholeSeconds / (it.uploadSeconds + it.loadSeconds)));
  const measures: Measure[] = [
    { name: 'path: push to published / (upload + load)', value: share, better: 'lower', target: null },
    ...Object.entries(peaks).map(
      ([name, value]): Measure => ({
        name: `path: peak resident MB of the ${name}`,
        value,
        better: 'lower',
        target: PEAK_TARGET_MB,
      }),
    ),
  ];
  const seconds = (figure: keyof Round) => median(rounds.map((it) => it[figure])).toFixed(2);
  const whole: Table = {
    title: `From push to published: ${rows.toLocaleString('en')} rows, ${(bytes / 1e6).toFixed(0)} MB`,
    columns: ['what', 'median s'],
    rows: [
      ['upload alone (`uploader push --no-wait`, hashing included)', seconds('uploadSeconds')],
      ['load alone (claim to publication)', seconds('loadSeconds')],
      ['`uploader push` until it says "published"', seconds('wholeSeconds')],
      ['the last against the sum of the first two', `${share.toFixed(2)}x`],
    ],
  };
  const memory: Table = {
    title: 'Peak resident memory (VmHWM) of each process over all of this',
    columns: ['process', 'MB'],
    rows: Object.entries(peaks).map(([name, value]) => [name, value.toFixed(0)]),
  };
  const probeRow = (name: string, { statusMs, eventLoopMs }: Probed) => [
    name,
    statusMs.length.toFixed(0),
    ...[percentile(statusMs, 0.5), percentile(statusMs, 0.99)].map((ms) => ms.toFixed(1)),
    ...[eventLoopMs.p50, eventLoopMs.p99, eventLoopMs.max].map((ms) => ms.toFixed(1)),
  ];
  const responsiveness: Table = {
    title: 'Milliseconds that `GET /v1/status` takes, and the delay of the event loop of the service',
    columns: ['while', 'requests', 'status p50', 'status p99', 'loop p50', 'loop p99', 'loop most'],
    rows: [probeRow('nothing happens', idle), probeRow('one run loads and others are uploaded', busy)],
    notes: ["Node's histogram of the loop has a resolution of 10 ms: a loop without delay has about 10."],
  };
  return {
    part: 'path',
    tables: [whole, memory, responsiveness],
    measures,
    raw: { rows, bytes, rounds, peakMb: peaks, idle, busy },
  };
}
