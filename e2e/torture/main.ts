/**
 * The torture: pushes and loads run after run while it kills one process after the other, and checks every promise.
 * `npm test` runs a short form. The long form, which prints a line per run and the number of kills of each process:
 *
 *   npm run torture -- [--store folder|s3] [--kills 1000] [--minutes 120] [--lines 60000] [--seed N]
 *
 * With `--store s3` the store is a bucket of a local versitygw, which is killed, too.
 */

import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type RunningProgram, runProgram } from '../support/programs.ts';
import { startTcpProxy, type TcpProxy } from '../support/proxies.ts';
import { type ScoreFile, seededRandom, writeScoreFile } from '../support/score-file.ts';
import {
  type OwnPostgres,
  type OwnS3,
  type Service,
  startOwnPostgresWithStandby,
  startOwnS3,
  startTestSystem,
  type TestSystem,
} from '../support/test-system.ts';
import { checkLeftovers, checkRun, watchOffsets, watchReaders } from './promises.ts';

const VICTIMS = [
  'client',
  'service',
  'second service',
  'loader',
  'PostgreSQL',
  'standby',
  'S3 server',
] as const;
type Victim = (typeof VICTIMS)[number];

interface TortureOptions {
  readonly seed: number;
  /** Ends after this many kills or when `forMs` is over, whichever is first. */
  readonly kills: number;
  readonly forMs: number;
  readonly linesPerRun: number;
  /** The server of the bucket. Without it the store is a folder. */
  readonly ownS3?: OwnS3;
  /** Receives one line per run. */
  log(line: string): void;
}

interface TortureReport {
  readonly kills: Record<Victim, number>;
  readonly runs: number;
  readonly offsetsSeen: number;
  readonly readers: ReturnType<ReturnType<typeof watchReaders>['check']>;
}

/** After this many kills a run gets no more, so that it must end. */
const KILLS_PER_RUN = 12;
const ENDS_WITHIN_MS = 90_000;

/**
 * Pushes run after run through two services on one folder or bucket, with a loader, a PostgreSQL and its hot standby. Kills one of
 * the processes with SIGKILL at random moments. After each run, every promise (promises.ts) must be true.
 *
 * @throws at the first promise that is broken, with the seed, the run and the number of kills.
 */
export async function runTorture(options: TortureOptions): Promise<TortureReport> {
  const random = seededRandom(options.seed);
  const bucket = options.ownS3?.s3;
  const victims = VICTIMS.filter((victim) => victim !== 'S3 server' || bucket !== undefined);
  const { primary: postgres, standby } = await startOwnPostgresWithStandby();
  const system = await startTestSystem({
    serverUrl: postgres.url,
    ...(bucket !== undefined && { bucket }),
  });
  // So that retention drops partitions, which is what a standby cancels readers for.
  await system.query(`INSERT INTO ingest.model (name, contract) VALUES ('churn', '{"keepRevisions": 1}')`);
  await system.query('CREATE EXTENSION amcheck'); // for `verify`
  const processes = await startProcesses(system);
  const kills: Record<Victim, number> = {
    client: 0,
    service: 0,
    'second service': 0,
    loader: 0,
    PostgreSQL: 0,
    standby: 0,
    'S3 server': 0,
  };
  const killed = () => Object.values(kills).reduce((sum, count) => sum + count, 0);
  const endMs = performance.now() + options.forMs;
  const readers = watchReaders(postgres.url, standby.url);
  const offsets = watchOffsets(system);
  let runs = 0;
  try {
    while (killed() < options.kills && performance.now() < endMs) {
      runs += 1;
      const run = `run ${String(runs).padStart(4, '0')}`;
      const lines = 1 + Math.floor(random() * options.linesPerRun);
      const file = await writeScoreFile(
        join(system.workDir, run, 'scores.jsonl'),
        lines,
        runs + options.seed,
      );
      readers.expect(run, file);
      const limit = Math.min(KILLS_PER_RUN, options.kills - killed());
      await pushUnderFire(run, file, limit);
      await readers.mustShowOnStandby(run);
      await checkRun(system, run, file);
      readers.check();
      offsets.check();
      options.log(`${run}: published, ${lines} lines; ${killed()} kills so far`);
    }
    await system.store.age(); // an orphan is removed after a day
    await processes.sweep();
    await checkLeftovers(system, runs);
    return { kills, runs, offsetsSeen: offsets.check(), readers: readers.check() };
  } catch (error) {
    throw new Error(`Torture with seed ${options.seed}, run ${runs}, after ${killed()} kills`, {
      cause: error,
    });
  } finally {
    offsets.stop();
    readers.stop();
    await processes.proxy.stop();
    await system.stop();
    await standby.stop();
    await postgres.stop();
  }

  async function pushUnderFire(run: string, file: ScoreFile, limit: number): Promise<void> {
    const args = [
      'push',
      join(system.workDir, run),
      '--model',
      'churn',
      '--run',
      run,
      '--chunk-size',
      '256KiB',
    ];
    const startClient = () => system.startUploader(processes.proxy.url, args, { UPLOADER_TIMEOUT: '600s' });
    let client = startClient();
    let killsOfRun = 0;
    const deadlineMs = performance.now() + ENDS_WITHIN_MS + limit * 2_000;
    for (;;) {
      const pauseMs = 20 + random() * 600;
      const over = killsOfRun < limit ? client.ended.then(() => undefined) : client.ended;
      const ending = await Promise.race([
        over.then(() => client.ended),
        delay(pauseMs).then(() => undefined),
      ]);
      if (ending !== undefined) {
        if (ending.code === 0) return;
        // 75: running the same command again continues the push.
        if (ending.code !== 75 && ending.signal !== 'SIGKILL')
          throw new Error(
            `The push of ${file.path} ended with ${ending.code}:\n${ending.stderr}${ending.stdout}`,
          );
        client = startClient();
      }
      if (performance.now() > deadlineMs)
        throw new Error(`${run} was not published in time.\n${client.stderr()}`);
      if (killsOfRun >= limit) continue;
      const victim = victims[Math.floor(random() * victims.length)] ?? 'client';
      killsOfRun += 1;
      kills[victim] += 1;
      if (victim === 'client') await client.kill('SIGKILL');
      else if (victim === 'S3 server') {
        await bucket?.kill();
        await delay(random() * 1_500);
        await bucket?.start();
      } else if (victim === 'standby') {
        readers.standbyKilled();
        await standby.restart('SIGKILL');
        readers.standbyKilled(); // a read may have ended between the call and the kill
      } else await processes.kill(victim, postgres);
    }
  }
}

/** Retention works often, so that readers of the standby meet it. */
const LOADER_ENV = { INGEST_RETENTION_INTERVAL_MS: '1000' };

interface Processes {
  readonly proxy: TcpProxy;
  kill(victim: Exclude<Victim, 'client' | 'standby' | 'S3 server'>, postgres: OwnPostgres): Promise<void>;
  /** Restarts both services: the start of a service completes what was left undone. */
  sweep(): Promise<void>;
}

/** Two services on one store, behind one address that forwards to one of them, and a loader. */
async function startProcesses(system: TestSystem): Promise<Processes> {
  const first = await system.startService();
  const second = await system.startService();
  const proxy = await startTcpProxy(first.port);
  const services: [Service, Service] = [first, second];
  let loader: RunningProgram = system.startLoader(LOADER_ENV);
  const restart = async (index: 0 | 1) => {
    // New connections go to the other service.
    proxy.target(services[1 - index]?.port ?? 0);
    await services[index].kill('SIGKILL');
    services[index] = await system.startService();
  };
  return {
    proxy,
    async kill(victim, postgres) {
      if (victim === 'service') await restart(0);
      else if (victim === 'second service') await restart(1);
      else if (victim === 'PostgreSQL') {
        await postgres.restart('SIGKILL');
        await verify(postgres);
      } else {
        await loader.kill('SIGKILL');
        loader = system.startLoader(LOADER_ENV);
      }
    },
    async sweep() {
      await restart(0);
      await restart(1);
    },
  };
}

const DIFFERS = 65;

/** After each crash of PostgreSQL, every row that was loaded before must be there, and its key whole. */
async function verify({ url }: OwnPostgres): Promise<void> {
  const { code, stdout, stderr } = await runProgram('ingest-api', ['verify'], { DATABASE_URL: url });
  if (code !== 0)
    throw new Error(
      `PostgreSQL ${code === DIFFERS ? 'has lost rows' : 'could not be verified'} (exit code ${code}):\n${stdout}${stderr}`,
    );
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      store: { type: 'string', default: 'folder' },
      kills: { type: 'string', default: '1000' },
      minutes: { type: 'string', default: '120' },
      lines: { type: 'string', default: '60000' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    },
  });
  if (values.store !== 'folder' && values.store !== 's3')
    throw new Error(`--store is folder or s3, and not ${values.store}.`);
  console.log(`seed ${values.seed}`);
  const ownS3 = values.store === 's3' ? await startOwnS3() : undefined;
  if (values.store === 's3' && ownS3 === undefined) process.exit(1);
  const report = await runTorture({
    seed: Number(values.seed),
    kills: Number(values.kills),
    forMs: Number(values.minutes) * 60_000,
    linesPerRun: Number(values.lines),
    ...(ownS3 !== undefined && { ownS3 }),
    log: (line) => console.log(line),
  }).finally(() => ownS3?.stop());
  console.log(JSON.stringify(report));
}
