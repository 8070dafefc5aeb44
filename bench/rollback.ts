/**
 * What a rollback costs at full size: the real programs push and load two runs of a model, and the HTTP API publishes
 * one and the other in turn, while readers read continuously. Prints the time of the publications, and whether every
 * read saw exactly one of the two runs.
 *
 *   node bench/rollback.ts [--rows 30000000] [--turns 60] [--readers 2]
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { runProgram } from '../e2e/support/programs.ts';
import type { TestSystem } from '../e2e/support/test-system.ts';
import { withBenchSystem } from './database.ts';
import { median } from './result.ts';
import { writeScoreFile } from './score-file.ts';

const RUNS = ['2026-10', '2026-11'] as const;
/** Between two publications, so that the readers also read undisturbed. */
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

await withBenchSystem(async (system) => {
  const service = await system.startService();
  system.startLoader();
  // The same rows in another order, so that the two runs share no file.
  await pushRun(system, service.url, RUNS[0], 'random');
  await pushRun(system, service.url, RUNS[1], 'sorted');
  const token = await operatorToken(system.databaseUrl);

  const stop = new AbortController();
  const reading = Array.from({ length: Number(values.readers) }, () =>
    readUntil(stop.signal, system.databaseUrl),
  );
  const publishMs: number[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    publishMs.push(await publish(service.url, token, turn % 2 === 0 ? RUNS[0] : RUNS[1]));
    await delay(PAUSE_MS);
  }
  stop.abort();
  const readers = await Promise.all(reading);

  const readMs = readers.flatMap((reader) => reader.tookMs);
  const broken = readers.flatMap((reader) => reader.broken);
  const times = (list: readonly number[]) =>
    `median ${median(list).toFixed(1)} ms, worst ${Math.max(...list).toFixed(1)} ms`;
  console.log(
    `${turns} publications by PUT …/current, in turn of two runs of ${rows} rows: ${times(publishMs)}`,
  );
  console.log(`${readMs.length} reads of ${KEYS_PER_READ} keys meanwhile: ${times(readMs)}`);
  console.log(`reads that saw neither run, or both: ${broken.length}${broken.length === 0 ? '' : ' BROKEN'}`);
  if (broken.length > 0) {
    console.log(JSON.stringify(broken.slice(0, 5)));
    process.exitCode = 1;
  }
});

/** Removes the source afterwards, because it is large. */
async function pushRun(
  system: TestSystem,
  url: string,
  run: string,
  order: 'random' | 'sorted',
): Promise<void> {
  const source = join(system.workDir, run);
  await mkdir(source);
  await writeScoreFile(join(source, 'scores.jsonl'), rows, order);
  const startedMs = performance.now();
  const pushed = await system.runUploader(url, ['push', source, '--model', 'churn', '--run', run]);
  if (pushed.code !== 0) throw new Error(`The push of ${run} ended with ${pushed.code}:\n${pushed.stderr}`);
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(`${run}: ${rows} rows pushed, loaded and published in ${seconds.toFixed(1)} s`);
  await rm(source, { recursive: true });
}

async function operatorToken(databaseUrl: string): Promise<string> {
  const args = ['token', 'create', 'operator', '--scope', 'operate'];
  const { stdout } = await runProgram('ingest-api', args, { DATABASE_URL: databaseUrl });
  return stdout.trimEnd().split('\n').at(-1) ?? '';
}

/** @returns the milliseconds until the answer. */
async function publish(url: string, token: string, run: string): Promise<number> {
  const startedMs = performance.now();
  const answer = await fetch(`${url}/v1/models/churn/current`, {
    method: 'PUT',
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ run, reason: 'bench' }),
  });
  if (!answer.ok) throw new Error(`PUT answered ${answer.status}: ${await answer.text()}`);
  await answer.arrayBuffer();
  return performance.now() - startedMs;
}

interface Reads {
  readonly tookMs: number[];
  /** The rows of each read that did not see one whole run. */
  readonly broken: unknown[];
}

async function readUntil(stop: AbortSignal, databaseUrl: string): Promise<Reads> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const reads: Reads = { tookMs: [], broken: [] };
  while (!stop.aborted) {
    const first = 100_000_000 + Math.floor(Math.random() * (rows - KEYS_PER_READ));
    const keys = Array.from({ length: KEYS_PER_READ }, (_, index) => String(first + index));
    const startedMs = performance.now();
    const read = await client.query<{ run: string; score: number }>(
      'SELECT run, score FROM scores.churn WHERE pk = ANY ($1)',
      [keys],
    );
    reads.tookMs.push(performance.now() - startedMs);
    const runs = new Set(read.rows.map((row) => row.run));
    if (read.rows.length !== KEYS_PER_READ || runs.size !== 1) reads.broken.push(read.rows);
  }
  await client.end();
  return reads;
}
