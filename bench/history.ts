/**
 * What the service costs after years: the time of each answer, and the processor time of service and database while one
 * page is open and nothing moves, by the number of runs in the history. Then the same with runs that are being received.
 *
 *   node bench/history.ts [--runs 100,10000,100000] [--models 60] [--rounds 40] [--watch-seconds 30] [--json FILE]
 *
 * The history is written by SQL: no run has rows. The service is a process on a database of its own.
 */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Service, TestSystem } from '../e2e/support/test-system.ts';
import { withBenchSystem } from './database.ts';
import { fillHistory } from './history-rows.ts';
import { type Measure, median, percentile, report } from './result.ts';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '100,10000,100000' },
    models: { type: 'string', default: '60' },
    rounds: { type: 'string', default: '40' },
    'watch-seconds': { type: 'string', default: '30' },
    json: { type: 'string' },
  },
});
const sizes = values.runs.split(',').map(Number);
const rounds = Number(values.rounds);
const watchSeconds = Number(values['watch-seconds']);

/** As the page does (`page/main.ts`). */
const STATUS_EVERY_SECONDS = 10;

/** What the product promises at any size. */
const LONGEST_P50_MS = 30;
const WATCH_SHARE = 0.01;

const ANSWERS = {
  '/v1/status': '/v1/status',
  '/metrics': '/metrics',
  '/v1/runs': '/v1/runs',
  '/v1/runs, page 20': '/v1/runs?cursor=rCURSOR',
  '/v1/runs?state=failed,held': '/v1/runs?state=failed,held',
  '/v1/runs?model=': '/v1/runs?model=model_7',
  '/v1/runs?model=&state=': '/v1/runs?model=model_7&state=cancelled',
  '/v1/runs?perModel=24': '/v1/runs?perModel=24&limit=500',
  '/v1/models': '/v1/models',
  'a run': '/v1/models/model_7/runs/RUN',
  'its history': '/v1/models/model_7/runs/RUN/history',
} as const;

const answers = new Map<string, { readonly p50Ms: number; readonly cpuMs: number }[]>(
  Object.keys(ANSWERS).map((name) => [name, []]),
);
const watch: { readonly database: number; readonly service: number }[] = [];
const measures: Measure[] = [];

await withBenchSystem(async (system) => {
  for (const runs of sizes) await measureSize(system, runs);
});

await report(
  {
    part: 'history',
    tables: [
      {
        title: `p50 of each answer, and the processor time of database and service, in ms, ${values.models} models, by runs in the history`,
        columns: ['answer', ...sizes.flatMap((runs) => [`${runs.toLocaleString('en')}: p50`, 'CPU'])],
        rows: [...answers].map(([name, of]) => [
          name,
          ...of.flatMap(({ p50Ms, cpuMs }) => [p50Ms.toFixed(1), cpuMs.toFixed(1)]),
        ]),
      },
      {
        title: 'One page open and nothing moves: percent of a core',
        columns: ['runs', 'database', 'service', 'together'],
        rows: watch.map(({ database, service }, at) => [
          (sizes[at] ?? 0).toLocaleString('en'),
          ...[database, service, database + service].map((share) => (100 * share).toFixed(2)),
        ]),
      },
    ],
    measures,
    raw: { answers: Object.fromEntries(answers), watch },
  },
  values.json,
);

async function measureSize(system: TestSystem, runs: number): Promise<void> {
  const startedMs = performance.now();
  await fillHistory(system.query, { runs, models: Number(values.models) });
  console.log(`  ${runs} runs written in ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  // The service adds up the counters when it starts, and a second time into the space that the first time has left free: as
  // its sweeps and autovacuum do within minutes.
  for (let sweep = 0; sweep < 2; sweep += 1) {
    await (await system.startService()).kill('SIGTERM');
    await system.query('VACUUM ANALYZE');
  }
  const service = await system.startService();
  const [newest] = await system.query<{ run_key: string; cursor: number }>(
    `SELECT run_key, revision_id / 2 AS cursor FROM ingest.run_revision WHERE model = 'model_7' ORDER BY revision_id DESC LIMIT 1`,
  );
  const ask = async (address: string) => {
    const url = address.replace('RUN', newest?.run_key ?? '').replace('CURSOR', String(newest?.cursor ?? 1));
    const response = await fetch(`${service.url}${url}`, {
      headers: { authorization: `Bearer ${system.token}` },
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${url} answered ${response.status}: ${text}`);
  };
  for (let warm = 0; warm < 20; warm += 1) await Promise.all(Object.values(ANSWERS).map(ask)); // all connections
  const cpu = await processorTime(system, service);
  for (const [name, address] of Object.entries(ANSWERS)) {
    const times: number[] = [];
    const before = await cpu();
    for (let round = 0; round < rounds; round += 1) {
      const askedMs = performance.now();
      await ask(address);
      times.push(performance.now() - askedMs);
    }
    const after = await cpu();
    const cpuMs = ((after.database + after.service - before.database - before.service) * 1000) / rounds;
    answers.get(name)?.push({ p50Ms: median(times), cpuMs });
    measures.push({
      name: `history: p50 of ${name} in ms, ${runs} runs`,
      value: median(times),
      better: 'lower',
      target: LONGEST_P50_MS,
    });
    console.log(
      `  ${name}: p50 ${median(times).toFixed(1)} ms, p95 ${percentile(times, 0.95).toFixed(1)} ms, CPU ${cpuMs.toFixed(1)} ms`,
    );
  }
  const cost = await measureWatch(system, service, ask);
  await service.kill('SIGTERM');
  watch.push(cost);
  measures.push({
    name: `history: cores of an open page, ${runs} runs`,
    value: cost.database + cost.service,
    better: 'lower',
    target: WATCH_SHARE,
  });
  console.log(
    `  one open page: ${(100 * cost.database).toFixed(2)} % of a core on PostgreSQL, ${(100 * cost.service).toFixed(2)} % in the service`,
  );
}

/** @returns the share of a core. */
async function measureWatch(system: TestSystem, service: Service, ask: (address: string) => Promise<void>) {
  const closing = new AbortController();
  const page = await fetch(`${service.url}/v1/events`, {
    headers: { authorization: `Bearer ${system.token}` },
    signal: closing.signal,
  });
  const reading = page.text().catch(() => {}); // the abort ends it
  await delay(5_000); // the first polls, and what the answers before have started
  const cpu = await processorTime(system, service);
  const before = await cpu();
  for (let second = 0; second < watchSeconds; second += 1) {
    if (second % STATUS_EVERY_SECONDS === 0) await ask('/v1/status');
    await delay(1_000);
  }
  const after = await cpu();
  closing.abort();
  await reading;
  return {
    database: (after.database - before.database) / watchSeconds,
    service: (after.service - before.service) / watchSeconds,
  };
}

/** @returns a function with the processor time so far of the service, and of the database's processes for it. */
async function processorTime(system: TestSystem, service: Service) {
  const known = new Map<number, number>(); // a connection that is idle for 10 s is closed
  return async () => {
    const pids = await system.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ingest-api serve%'`,
    );
    for (const { pid } of pids) known.set(pid, await cpuSeconds(pid).catch(() => known.get(pid) ?? 0)); // it has ended
    const database = [...known.values()].reduce((sum, seconds) => sum + seconds, 0);
    return { database, service: await cpuSeconds(service.pid) };
  };
}

/** Processor time of all threads of a process so far, to the nanosecond: in Linux only. */
async function cpuSeconds(pid: number): Promise<number> {
  const threads = await readdir(`/proc/${pid}/task`);
  const times = await Promise.all(
    threads.map(async (thread) => {
      const schedstat = await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8');
      return Number(schedstat.split(' ')[0]) / 1e9;
    }),
  );
  return times.reduce((sum, seconds) => sum + seconds, 0);
}
