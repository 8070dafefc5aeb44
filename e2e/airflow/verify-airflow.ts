// Runs the example DAG in a real Airflow 3 against the real service. The test kills the uploader in mid transfer, and
// Airflow retries the task. Too slow and too large for `npm test`; run it by hand:
//   python3 -m venv airflow-venv && airflow-venv/bin/pip install apache-airflow==3.3.2
//   AIRFLOW=$PWD/airflow-venv/bin/airflow node_modules/.bin/mocha e2e/airflow/verify-airflow.ts

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, mkdirSync } from 'node:fs';
import { mkdir, readdir, readFile, symlink } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { waitFor } from '../support/programs.ts';
import { type FaultProxy, startFaultProxy } from '../support/proxies.ts';
import { startTestSystem, type TestSystem } from '../support/test-system.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const AIRFLOW_PROCESSES = [
  ['scheduler'],
  ['dag-processor'],
  ['api-server', '--workers', '1', '--host', '127.0.0.1'],
];
const STOPS_WITHIN_MS = 20_000;
const RUN_ID = 'manual__2026-11-01T00:00:00+00:00';
const ROWS = 400_000;
const CHUNK_BYTES = 1024 * 1024;
const HAPPENS_WITHIN_MS = 400_000;

describe('The example DAG in a real Airflow', function () {
  this.timeout(HAPPENS_WITHIN_MS * 2);
  let system: TestSystem;
  let proxy: FaultProxy;
  let airflow: Airflow;
  let home: string;

  before(async () => {
    const program = process.env.AIRFLOW;
    if (!program) throw new Error('AIRFLOW must name the airflow program of a virtual environment.');
    system = await startTestSystem();
    const service = await system.startService();
    system.startLoader();
    proxy = await startFaultProxy(service.port);
    // The transfer stalls half-way, so that the test can kill it.
    proxy.plan(
      [1, 2].map(() => ({ on: 'PATCH', fault: { do: 'fall_silent', afterBytes: CHUNK_BYTES / 2 } })),
    );
    home = join(system.workDir, 'airflow');
    const bin = join(system.workDir, 'bin');
    mkdirSync(bin);
    await symlink(join(ROOT, 'apps/uploader/bin/uploader.js'), join(bin, 'uploader'));
    airflow = await startAirflow(program, home, await freePort(), {
      AIRFLOW__CORE__DAGS_FOLDER: join(ROOT, 'docker/airflow/dags'),
      PATH: [bin, join(ROOT, 'node_modules/.bin'), process.env.PATH].join(delimiter),
      AIRFLOW_CONN_SCORE_INGEST: JSON.stringify({
        conn_type: 'generic',
        host: proxy.url,
        password: system.token,
      }),
      SCORES_DIR: join(system.workDir, 'scores'),
      SCORES_ROWS: String(ROWS),
      PUSH_RETRY_DELAY_SECONDS: '5',
      UPLOADER_CHUNK_SIZE: String(CHUNK_BYTES),
    });
  });
  after(async () => {
    await airflow?.stop();
    await proxy?.stop();
    await system?.stop();
  });

  it('retries the task that was killed in mid transfer, and sends only the rest', async () => {
    await waitFor('Airflow to read the DAG', () => triggered(), HAPPENS_WITHIN_MS);
    const pid = await waitFor(
      'a stalled transfer',
      async () => proxy.receivedBytes() >= CHUNK_BYTES / 2 && (await uploaderProcess()),
      HAPPENS_WITHIN_MS,
    );
    console.log(`      killing process ${pid} after ${proxy.receivedBytes()} bytes`);
    process.kill(pid, 'SIGKILL');
    proxy.plan([]);
    const state = await waitFor('the end of the run', () => endOfRun(), HAPPENS_WITHIN_MS);
    for (const name of await logs()) console.log(`      --- ${name}\n${await readableLog(name)}`);
    expect(state).to.equal('success');

    const rows = await system.query('SELECT count(*)::int AS rows FROM scores.churn');
    expect(rows).to.deep.equal([{ rows: ROWS }]);
    const [file] = await system.query<{ bytes: number }>('SELECT bytes::int FROM ingest.run_file');
    expect(proxy.receivedBytes()).to.be.at.most((file?.bytes ?? 0) + CHUNK_BYTES);
    const runs = await system.query<{ run_key: string; revision: number }>(
      'SELECT run_key, revision FROM ingest.run_revision',
    );
    expect(runs).to.deep.equal([{ run_key: RUN_ID, revision: 1 }]);
  });

  it("hands the uploader's result to the next task, and does not log the token", async () => {
    const names = await logs();
    expect(names.filter((name) => name.includes('task_id=push/')).length).to.be.at.least(2);
    const texts = await Promise.all(names.map((name) => readFile(join(home, 'logs', name), 'utf8')));
    expect(texts.join('\n')).to.not.include(system.token);
    const tellLog = names.findIndex((name) => name.includes('task_id=tell/'));
    expect(texts[tellLog]).to.match(/revision 1, \d+ of \d+ bytes sent/);
  });

  /** Resolves to undefined until the DAG processor has read the file. */
  async function triggered(): Promise<true | undefined> {
    try {
      await airflow.run('dags', 'trigger', 'push_scores', '--run-id', RUN_ID);
      return true;
    } catch {
      return undefined;
    }
  }

  async function endOfRun(): Promise<string | undefined> {
    const output = await airflow.run('dags', 'list-runs', 'push_scores', '--output', 'json');
    // Airflow may print log lines before the JSON.
    const { state } = JSON.parse(output.slice(output.indexOf('[{')))[0] ?? {};
    return state === 'success' || state === 'failed' ? state : undefined;
  }

  /** The uploader that Airflow started: the only one whose arguments name this test's folder. */
  async function uploaderProcess(): Promise<number | undefined> {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (command[1]?.endsWith('uploader') && command.some((text) => text.includes(system.workDir))) {
        return Number(pid);
      }
    }
    return undefined;
  }

  async function logs(): Promise<string[]> {
    const names = await readdir(join(home, 'logs'), { recursive: true });
    return names.filter((name) => name.startsWith('dag_id=push_scores/') && name.endsWith('.log')).sort();
  }

  async function readableLog(name: string): Promise<string> {
    const lines = (await readFile(join(home, 'logs', name), 'utf8')).trimEnd().split('\n');
    return lines
      .map((line) => JSON.parse(line))
      .map(({ timestamp, level, event }) => `      ${timestamp} ${level} ${event}`)
      .join('\n');
  }
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A real Airflow 3 on SQLite: scheduler, DAG processor and API server as processes. */
interface Airflow {
  run(...args: string[]): Promise<string>;
  stop(): Promise<void>;
}

async function startAirflow(
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
  const processes = AIRFLOW_PROCESSES.map((args): ChildProcess => {
    // Detached, so that each process has its own group: it starts children, which must end with it.
    const child = spawn(airflow, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const log = createWriteStream(join(home, `${args[0]}.log`));
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    return child;
  });
  return {
    run,
    async stop() {
      await Promise.all(processes.map(stopGroup));
    },
  };
}

async function stopGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const group = -child.pid;
  const ended = once(child, 'exit');
  process.kill(group, 'SIGTERM');
  const killTimer = setTimeout(() => process.kill(group, 'SIGKILL'), STOPS_WITHIN_MS);
  await ended;
  clearTimeout(killTimer);
}
