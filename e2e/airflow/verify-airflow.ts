// Runs the example DAG and the operator PushScores in a real Airflow 3 against the real service. The test kills the uploader
// during the transfer, and Airflow retries the task; then it ends a push in each way that the operator tells apart, and a pod with each exit code. Too slow and too large for `npm test`; run it by hand:
//   python3 -m venv airflow-venv && airflow-venv/bin/pip install apache-airflow==3.3.2 apache-airflow-providers-cncf-kubernetes
//   AIRFLOW=$PWD/airflow-venv/bin/airflow node_modules/.bin/mocha e2e/airflow/verify-airflow.ts

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, existsSync, mkdirSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { delimiter, dirname, join } from 'node:path';
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
  ['triggerer'],
  ['api-server', '--workers', '1', '--host', '127.0.0.1'],
];
const STOPS_WITHIN_MS = 20_000;
const RUN_ID = 'manual__2026-11-01T00:00:00+00:00';
const ROWS = 400_000;
const CHUNK_BYTES = 1024 * 1024;
const HAPPENS_WITHIN_MS = 400_000;

/** How each DAG of operator_cases.py ends, and how often PushScores itself fails: Airflow has failures of its own, and retries them. */
const ENDS = {
  good: { state: 'success', failures: 0, result: 'published', exitCode: 0 },
  deferred: { state: 'success', failures: 0, result: 'published', exitCode: 0 },
  bad: { state: 'failed', failures: 1, result: 'bad_data', exitCode: 65 },
  bad_deferred: { state: 'failed', failures: 1, result: 'bad_data', exitCode: 65 },
  usage: { state: 'failed', failures: 1, result: 'usage', exitCode: 2 },
  no_program: { state: 'failed', failures: 1, result: 'usage', exitCode: 2 },
  token: { state: 'failed', failures: 1, result: 'not_allowed', exitCode: 77 },
  network: { state: 'failed', failures: 2, result: 'try_again', exitCode: 75 },
  behind: { state: 'success', failures: 0, result: 'superseded', exitCode: 0 },
  not_shown: { state: 'failed', failures: 1, result: 'bad_data', exitCode: 65 },
  timed_out: { state: 'failed', failures: 0, result: 'interrupted', exitCode: 143 },
  stopped: { state: 'failed', failures: 1, result: 'interrupted', exitCode: 143 },
};

describe('The example DAG and the operator in a real Airflow', function () {
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
    const dags = join(system.workDir, 'dags');
    mkdirSync(dags);
    await copyFile(join(ROOT, 'docker/airflow/dags/push_scores.py'), join(dags, 'push_scores.py'));
    await copyFile(join(ROOT, 'e2e/airflow/operator_cases.py'), join(dags, 'operator_cases.py'));
    airflow = await startAirflow(program, home, await freePort(), {
      AIRFLOW__CORE__DAGS_FOLDER: dags,
      AIRFLOW__CORE__PLUGINS_FOLDER: join(ROOT, 'docker/airflow/plugins'),
      PATH: [bin, join(ROOT, 'node_modules/.bin'), process.env.PATH].join(delimiter),
      AIRFLOW_CONN_SCORE_INGEST: JSON.stringify({
        conn_type: 'generic',
        host: proxy.url,
        password: system.token,
      }),
      AIRFLOW_CONN_WRONG_TOKEN: `http://:si_wrong@127.0.0.1:${service.port}`,
      AIRFLOW_CONN_NOBODY: 'http://:si_unused@127.0.0.1:9',
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
    expect(texts.join('\n')).to.include('Pausing task as DEFERRED');
    const tellLog = names.findIndex((name) => name.includes('task_id=tell/'));
    expect(texts[tellLog]).to.match(/revision 1 is published, \d+ rows/);
  });

  it('fails at once, is retried or succeeds, with XCom, link and asset event', async () => {
    proxy.plan([]);
    const scores = join(system.workDir, 'scores');
    for (const folder of ['good', 'bad']) await mkdir(join(scores, folder), { recursive: true });
    const line = (pk: number) => `{"pk":"${pk}","score":"0.5"}\n`;
    await writeFile(
      join(scores, 'good/a.jsonl'),
      Array.from({ length: 60_000 }, (_, pk) => line(pk)).join(''),
    );
    await writeFile(join(scores, 'bad/a.jsonl'), `${line(1)}{"pk":"2","score":"high"}\n`);
    const newest = ['push', join(scores, 'good'), '--model', 'later', '--run', 'newest'];
    expect((await system.runUploader(proxy.url, newest)).code).to.equal(0);
    for (const name of Object.keys(ENDS)) {
      await waitFor(`Airflow to read ${name}`, () => triggered(name, 'first'), HAPPENS_WITHIN_MS);
    }
    const uploader = await waitFor(
      'the push to stop',
      () => uploaderProcess('of_stopped'),
      HAPPENS_WITHIN_MS,
    );
    await airflow.api('PATCH', '/dags/stopped/dagRuns/first/taskInstances/push', { new_state: 'failed' });
    await waitFor('the uploader to end', async () => !existsSync(`/proc/${uploader}`), HAPPENS_WITHIN_MS);
    for (const [name, { state, failures, result, exitCode }] of Object.entries(ENDS)) {
      const task = `/dags/${name}/dagRuns/first/taskInstances/push`;
      const ended = await waitFor(
        `the end of ${name}`,
        async () => {
          const instance = await airflow.api('GET', task);
          return ['success', 'failed'].includes(instance.state ?? '') && instance;
        },
        HAPPENS_WITHIN_MS,
      );
      expect(ended.state, name).to.equal(state);
      const texts = await Promise.all(
        (await logs(name)).map((log) => readFile(join(home, 'logs', log), 'utf8')),
      );
      const failed = texts.filter((text) => text.includes(`exit code is ${exitCode}.`));
      expect(failed, name).to.have.length(failures);
      const xcom = await waitFor(
        `the XCom of ${name}`,
        async () => (await airflow.api('GET', `${task}/xcomEntries/return_value?deserialize=true`)).value,
        HAPPENS_WITHIN_MS,
      );
      expect(xcom, name).to.deep.include({ result, exitCode });
      const { extra_links: links } = await airflow.api('GET', `${task}/links`);
      const model = ['behind', 'not_shown'].includes(name) ? 'later' : `of_${name}`;
      expect(links?.['Run in score-ingest'], name).to.match(new RegExp(`/#/runs/${model}/first$`));
    }
    const { asset_events: events } = await airflow.api('GET', '/assets/events');
    const published = events?.map(({ name, extra }) => `${name} ${extra.run}`) ?? [];
    expect(published.filter((event) => event.endsWith(' first'))).to.have.members([
      'scores.of_good first',
      'scores.of_deferred first',
    ]);
    await waitFor(
      'the DAG that waits for the scores',
      async () => (await airflow.api('GET', '/dags/reader/dagRuns')).dag_runs?.[0]?.state === 'success',
      HAPPENS_WITHIN_MS,
    );
    for (const name of ['good', 'bad', 'stopped']) {
      const log = (await logs(name)).at(-1) ?? '';
      console.log(`      --- ${log}\n${await readableLog(log)}`);
    }
  });

  it('fails at once or is retried, by the exit code of a pod', async () => {
    const python = join(dirname(process.env.AIRFLOW ?? ''), 'python');
    const { stdout } = await promisify(execFile)(
      python,
      ['e2e/airflow/pod_cases.py', 'docker/airflow/dags/push_scores_container.py'],
      { cwd: ROOT, env: { ...process.env, AIRFLOW_HOME: home } },
    );
    const ends = stdout.match(/^\d+ (succeeds|fails|is retried)$/gm);
    expect(ends).to.deep.equal([
      '0 succeeds',
      ...[
        '1 is retried',
        '2 fails',
        '65 fails',
        '66 is retried',
        '69 is retried',
        '75 is retried',
        '77 fails',
      ],
      ...['130 is retried', '137 is retried', '143 is retried'],
    ]);
  });

  /** Resolves to undefined until the DAG processor has read the file. */
  async function triggered(dag = 'push_scores', runId = RUN_ID): Promise<true | undefined> {
    const body = { dag_run_id: runId, logical_date: null };
    const { state } = await airflow.api('POST', `/dags/${dag}/dagRuns`, body).catch((): ApiAnswer => ({}));
    return state === undefined ? undefined : true;
  }

  async function endOfRun(): Promise<string | undefined> {
    const { state } = await airflow.api('GET', `/dags/push_scores/dagRuns/${encodeURIComponent(RUN_ID)}`);
    return state === 'success' || state === 'failed' ? state : undefined;
  }

  /** The uploader that Airflow started: the only one whose arguments name this test's folder. */
  async function uploaderProcess(model = 'churn'): Promise<number | undefined> {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (
        command[1]?.endsWith('uploader') &&
        command.includes(model) &&
        command.some((text) => text.includes(system.workDir))
      ) {
        return Number(pid);
      }
    }
    return undefined;
  }

  async function logs(dag = 'push_scores'): Promise<string[]> {
    const names = await readdir(join(home, 'logs'), { recursive: true });
    return names.filter((name) => name.startsWith(`dag_id=${dag}/`) && name.endsWith('.log')).sort();
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

/** What the tests read of the answers of Airflow's REST API. */
interface ApiAnswer {
  state?: string;
  /** Of an XCom. */
  value?: unknown;
  extra_links?: Record<string, string>;
  asset_events?: { name: string; extra: { run: string } }[];
  dag_runs?: { state: string }[];
}

/** A real Airflow 3 on SQLite: scheduler, DAG processor, triggerer and API server as processes. */
interface Airflow {
  api(method: string, path: string, body?: object): Promise<ApiAnswer>;
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
    AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS: 'True',
    AIRFLOW__API__SECRET_KEY: 'verify',
    AIRFLOW__API_AUTH__JWT_SECRET: 'verify-airflow-verify-airflow-verify-airflow-verify-airflow-1234',
    AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL: '5',
    ...extraEnv,
  };
  await promisify(execFile)(airflow, ['db', 'migrate'], { env, maxBuffer: 2 ** 26 });
  const processes = AIRFLOW_PROCESSES.map((args): ChildProcess => {
    // Detached, so that each process has its own group: it starts children, which must end with it.
    const child = spawn(airflow, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const log = createWriteStream(join(home, `${args[0]}.log`));
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    return child;
  });
  const address = `http://127.0.0.1:${port}`;
  let login: Promise<string> | undefined;
  const logIn = async () =>
    ((await (await fetch(`${address}/auth/token`)).json()) as { access_token: string }).access_token;
  return {
    async api(method, path, body) {
      login ??= logIn();
      const token = await login.catch((error: unknown) => {
        login = undefined; // the server has not started yet
        throw error;
      });
      const answer = await fetch(`${address}/api/v2${path}`, {
        method,
        headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      return (await answer.json()) as ApiAnswer;
    },
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
