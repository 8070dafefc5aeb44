import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const PARTS = [['scheduler'], ['dag-processor'], ['api-server', '--workers', '1', '--host', '127.0.0.1']];
const STOPS_WITHIN_MS = 20_000;

/** A real Airflow 3 on SQLite: scheduler, DAG processor and API server, each a process. */
export interface Airflow {
  run(...args: string[]): Promise<string>;
  stop(): Promise<void>;
}

export async function startAirflow(
  airflow: string,
  home: string,
  port: number,
  extraEnv: Record<string, string>,
): Promise<Airflow> {
  await mkdir(home, { recursive: true });
  const env = {
    ...process.env,
    AIRFLOW_HOME: home,
    AIRFLOW__CORE__LOAD_EXAMPLES: 'False',
    AIRFLOW__CORE__EXECUTOR: 'LocalExecutor',
    AIRFLOW__CORE__PARALLELISM: '2',
    AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION: 'False',
    AIRFLOW__CORE__EXECUTION_API_SERVER_URL: `http://127.0.0.1:${port}/execution/`,
    AIRFLOW__API__PORT: String(port),
    AIRFLOW__API__SECRET_KEY: 'verify',
    AIRFLOW__API_AUTH__JWT_SECRET: 'verify-airflow-verify-airflow-verify-airflow-verify-airflow-1234',
    AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL: '5',
    ...extraEnv,
  };
  const run = async (...args: string[]) =>
    (await promisify(execFile)(airflow, args, { env, maxBuffer: 2 ** 26 })).stdout;
  await run('db', 'migrate');
  const parts = PARTS.map((args): ChildProcess => {
    // A group of its own: each part has children, which end with it.
    const child = spawn(airflow, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const log = createWriteStream(join(home, `${args[0]}.log`));
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    return child;
  });
  return {
    run,
    async stop() {
      await Promise.all(parts.map(stopGroup));
    },
  };
}

async function stopGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const group = -child.pid;
  const ended = once(child, 'exit');
  process.kill(group, 'SIGTERM');
  const giveUp = setTimeout(() => process.kill(group, 'SIGKILL'), STOPS_WITHIN_MS);
  await ended;
  clearTimeout(giveUp);
}
