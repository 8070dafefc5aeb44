/**
 * What a rollback costs at full size: two runs of a model are pushed and loaded by the real programs, then one and the
 * other is published in turn by the HTTP API, while readers read all the time. Prints how long the publications took,
 * and whether any read saw something else than one of the two runs.
 *
 *   node bench/rollback.ts [--rows 30000000] [--turns 60] [--readers 2]
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { runProgram } from '../e2e/support/programs.ts';
import { startTestSystem } from '../e2e/support/test-system.ts';
import { startBenchServer } from './bench-server.ts';
import { median } from './median.ts';
import { writeScoreFile } from './score-file.ts';

const RUNS = ['2026-10', '2026-11'] as const;
/** Whoever publishes by hand does it now and then: each turn lets the readers go on for a while. */
const PAUSE_MS = 100;
const KEYS_PER_READ = 10;

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '30000000' },
    turns: { type: 'string', default: '60' },
    readers: { type: 'string', default: '2' },
  },
});
const rows = Number(values.rows);
const turns = Number(values.turns);

const dir = await mkdtemp(join(process.env.BENCH_DIR ?? tmpdir(), 'ingest-rollback-'));
const server = await startBenchServer(dir);
process.env.TEST_DATABASE_URL = server.url;
process.env.TMPDIR = dir;
const system = await startTestSystem();
try {
  const service = await system.startService();
  system.startLoader();
  for (const [index, run] of RUNS.entries())
    await pushRun(service.url, run, index === 0 ? 'random' : 'sorted');
  const operator = await operatorToken();
  const publish = async (run: string) => {
    const startedMs = performance.now();
    const answer = await fetch(`${service.url}/v1/models/churn/current`, {
      method: 'PUT',
      headers: { Authorization: `Bearer ${operator}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ run, reason: 'bench' }),
    });
    if (!answer.ok) throw new Error(`PUT answered ${answer.status}: ${await answer.text()}`);
    await answer.arrayBuffer();
    return performance.now() - startedMs;
  };

  const stop = new AbortController();
  const reading = Array.from({ length: Number(values.readers) }, () => readUntil(stop.signal));
  const tookMs: number[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    tookMs.push(await publish(turn % 2 === 0 ? RUNS[0] : RUNS[1]));
    await delay(PAUSE_MS);
  }
  stop.abort();
  const seen = await Promise.all(reading);

  const ms = (value: number) => `${value.toFixed(1)} ms`;
  const readMs = seen.flatMap((reader) => reader.tookMs);
  const other = seen.flatMap((reader) => reader.other);
  console.log(
    `${turns} publications by PUT …/current, to and fro between two runs of ${rows} rows: median ${ms(median(tookMs))}, worst ${ms(Math.max(...tookMs))}`,
  );
  console.log(
    `${readMs.length} reads of ${KEYS_PER_READ} keys meanwhile: median ${ms(median(readMs))}, worst ${ms(Math.max(...readMs))}`,
  );
  console.log(`reads that saw neither run, or both: ${other.length}${other.length === 0 ? '' : ' BROKEN'}`);
  if (other.length > 0) {
    console.log(JSON.stringify(other.slice(0, 5)));
    process.exitCode = 1;
  }
} finally {
  await system.stop();
  await server.stop();
  await rm(dir, { recursive: true, force: true });
}

/** The same rows for each run, in another order, so that nothing is shared. The source is removed again: it is large. */
async function pushRun(url: string, run: string, order: 'random' | 'sorted'): Promise<void> {
  const source = join(dir, run);
  await mkdir(source);
  await writeScoreFile(join(source, 'scores.jsonl'), rows, order);
  const startedMs = performance.now();
  const pushed = await system.runUploader(url, ['push', source, '--model', 'churn', '--run', run]);
  if (pushed.code !== 0) throw new Error(`The push of ${run} ended with ${pushed.code}:\n${pushed.stderr}`);
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(`${run}: ${rows} rows pushed, loaded and published in ${seconds.toFixed(1)} s`);
  await rm(source, { recursive: true });
}

async function operatorToken(): Promise<string> {
  const args = ['token', 'create', 'operator', '--scope', 'operate'];
  const { stdout } = await runProgram('ingest-api', args, { DATABASE_URL: system.databaseUrl });
  return stdout.trimEnd().split('\n').at(-1) ?? '';
}

interface Seen {
  readonly tookMs: number[];
  /** What was neither run whole. */
  readonly other: unknown[];
}

async function readUntil(stop: AbortSignal): Promise<Seen> {
  const client = new pg.Client({ connectionString: system.databaseUrl });
  await client.connect();
  const seen: Seen = { tookMs: [], other: [] };
  while (!stop.aborted) {
    const first = 100_000_000 + Math.floor(Math.random() * (rows - KEYS_PER_READ));
    const keys = Array.from({ length: KEYS_PER_READ }, (_, index) => String(first + index));
    const startedMs = performance.now();
    const read = await client.query<{ run: string; score: number }>(
      'SELECT run, score FROM scores.churn WHERE pk = ANY ($1)',
      [keys],
    );
    seen.tookMs.push(performance.now() - startedMs);
    const runs = new Set(read.rows.map((row) => row.run));
    if (read.rows.length !== KEYS_PER_READ || runs.size !== 1) seen.other.push(read.rows);
  }
  await client.end();
  return seen;
}
