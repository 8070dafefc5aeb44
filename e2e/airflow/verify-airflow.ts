// The example DAG in a real Airflow 3, against the real service, with the uploader killed in mid transfer and retried
// by Airflow. Too slow and too large for `npm test`; by hand:
//   python3 -m venv airflow-venv && airflow-venv/bin/pip install apache-airflow==3.3.2
//   AIRFLOW=$PWD/airflow-venv/bin/airflow node_modules/.bin/mocha e2e/airflow/verify-airflow.ts

import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { readdir, readFile, symlink } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { startTestSystem, type TestSystem } from '../support/test-system.ts';
import { waitFor } from '../support/wait-for.ts';
import { type Airflow, startAirflow } from './start-airflow.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const RUN_ID = 'manual__2026-11-01T00:00:00+00:00';
const ROWS = 400_000;
const CHUNK_BYTES = 1024 * 1024;
const PATIENCE_MS = 400_000;

describe('The example DAG in a real Airflow', function () {
  this.timeout(PATIENCE_MS * 2);
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
    // The transfer stands still in its middle, so that there is something to kill.
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

  it('retries the task that was killed in mid transfer, and it sends only the rest', async () => {
    await waitFor('the DAG to be known', () => triggered(), PATIENCE_MS);
    const pid = await waitFor(
      'a transfer that stands still',
      async () => proxy.receivedBytes() >= CHUNK_BYTES / 2 && (await uploaderProcess()),
      PATIENCE_MS,
    );
    console.log(`      killing process ${pid} after ${proxy.receivedBytes()} bytes`);
    process.kill(pid, 'SIGKILL');
    proxy.plan([]);
    const state = await waitFor('the end of the run', () => endOfRun(), PATIENCE_MS);
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
    const told = names.findIndex((name) => name.includes('task_id=tell/'));
    expect(texts[told]).to.match(/revision 1, \d+ of \d+ bytes sent/);
  });

  /** Resolves to undefined as long as the DAG processor has not read the file. */
  async function triggered(): Promise<true | undefined> {
    try {
      await airflow.run('dags', 'trigger', 'push_scores', '--run-id', RUN_ID);
      return true;
    } catch {
      return undefined;
    }
  }

  async function endOfRun(): Promise<string | undefined> {
    const told = await airflow.run('dags', 'list-runs', 'push_scores', '--output', 'json');
    // Log lines of Airflow itself may come first.
    const { state } = JSON.parse(told.slice(told.indexOf('[{')))[0] ?? {};
    return state === 'success' || state === 'failed' ? state : undefined;
  }

  /** The uploader that Airflow has started: the only one whose arguments name this test's folder. */
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
