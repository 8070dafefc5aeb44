import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type OwnPostgres, startOwnPostgres } from '../support/own-postgres.ts';
import type { RunningProgram } from '../support/program.ts';
import { seededRandom } from '../support/random.ts';
import { type ScoreFile, writeScoreFile } from '../support/score-file.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { type Service, startTestSystem, type TestSystem } from '../support/test-system.ts';
import { checkLeftovers, checkRun } from './invariants.ts';
import { watchOffsets } from './offsets.ts';
import { watchReaders } from './reader.ts';

export const VICTIMS = ['client', 'service', 'second service', 'loader', 'PostgreSQL'] as const;
export type Victim = (typeof VICTIMS)[number];

export interface TortureOptions {
  readonly seed: number;
  /** Ends after so many kills, or when the time is over, whichever is first. */
  readonly kills: number;
  readonly forMs: number;
  readonly linesPerRun: number;
  tell(line: string): void;
}

export interface TortureReport {
  readonly kills: Record<Victim, number>;
  readonly runs: number;
  readonly offsetsSeen: number;
  readonly reads: number;
}

/** After so many kills a run is left in peace, so that it must come to its end. */
const KILLS_PER_RUN = 12;
const PEACE_WITHIN_MS = 90_000;

/**
 * Pushes run after run through two services on one folder, with a loader and a PostgreSQL, and kills one of
 * them with SIGKILL at random moments. After each run: everything that design.md promises must be true.
 *
 * @throws at the first promise that does not hold, with the seed's place in the story.
 */
export async function runTorture(options: TortureOptions): Promise<TortureReport> {
  const random = seededRandom(options.seed);
  const postgres = await startOwnPostgres();
  const system = await startTestSystem({ serverUrl: postgres.url });
  const cast = await assemble(system);
  const kills: Record<Victim, number> = {
    client: 0,
    service: 0,
    'second service': 0,
    loader: 0,
    PostgreSQL: 0,
  };
  const killed = () => Object.values(kills).reduce((sum, count) => sum + count, 0);
  const endMs = performance.now() + options.forMs;
  const readers = watchReaders(postgres.url);
  const offsets = watchOffsets(postgres.url, join(system.workDir, 'uploads'));
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
      readers.expect(run, lines);
      const limit = Math.min(KILLS_PER_RUN, options.kills - killed());
      await pushUnderFire(run, file, limit);
      await checkRun(system, run, file);
      readers.check();
      offsets.check();
      options.tell(`${run}: published, ${lines} lines; ${killed()} kills so far`);
    }
    await cast.sweep();
    await checkLeftovers(system, runs);
    return { kills, runs, offsetsSeen: offsets.check(), reads: readers.check() };
  } catch (error) {
    throw new Error(`Torture with seed ${options.seed}, run ${runs}, after ${killed()} kills`, {
      cause: error,
    });
  } finally {
    offsets.stop();
    readers.stop();
    await cast.proxy.stop();
    await system.stop();
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
    const startClient = () => system.startUploader(cast.proxy.url, args, { UPLOADER_TIMEOUT: '600s' });
    let client = startClient();
    let shots = 0;
    const deadlineMs = performance.now() + PEACE_WITHIN_MS + limit * 2_000;
    for (;;) {
      const pauseMs = 20 + random() * 600;
      const over = shots < limit ? client.ended.then(() => undefined) : client.ended;
      const ending = await Promise.race([
        over.then(() => client.ended),
        delay(pauseMs).then(() => undefined),
      ]);
      if (ending !== undefined) {
        if (ending.code === 0) return;
        // 75 says: run the same command again.
        if (ending.code !== 75 && ending.signal !== 'SIGKILL')
          throw new Error(
            `The push of ${file.path} ended with ${ending.code}:\n${ending.stderr}${ending.stdout}`,
          );
        client = startClient();
      }
      if (performance.now() > deadlineMs)
        throw new Error(`${run} was not published in time.\n${client.stderr()}`);
      if (shots >= limit) continue;
      const victim = VICTIMS[Math.floor(random() * VICTIMS.length)] ?? 'client';
      shots += 1;
      kills[victim] += 1;
      if (victim === 'client') await client.kill('SIGKILL');
      else await cast.kill(victim, postgres);
    }
  }
}

interface Cast {
  readonly proxy: TcpProxy;
  kill(victim: Exclude<Victim, 'client'>, postgres: OwnPostgres): Promise<void>;
  /** Starts both services anew: what was left undone is done at the start. */
  sweep(): Promise<void>;
}

/** Two services on one folder, reached in turn through one address, and a loader. */
async function assemble(system: TestSystem): Promise<Cast> {
  const first = await system.startService();
  const second = await system.startService();
  const proxy = await startTcpProxy(first.port);
  const services: [Service, Service] = [first, second];
  let loader: RunningProgram = system.startLoader();
  const restart = async (index: 0 | 1) => {
    // Whoever comes next finds the other one.
    proxy.target(services[1 - index]?.port ?? 0);
    await services[index].kill('SIGKILL');
    services[index] = await system.startService();
  };
  return {
    proxy,
    async kill(victim, postgres) {
      if (victim === 'service') await restart(0);
      else if (victim === 'second service') await restart(1);
      else if (victim === 'PostgreSQL') await postgres.restart('SIGKILL');
      else {
        await loader.kill('SIGKILL');
        loader = system.startLoader();
      }
    },
    async sweep() {
      await restart(0);
      await restart(1);
    },
  };
}
