import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import {
  eventually,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const PATIENCE_MS = 60_000;
const DASHBOARD = new URL('../../../docker/grafana/dashboards/score-ingest.json', import.meta.url);

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

interface Answer {
  readonly status: string;
  readonly error?: string;
  readonly data?: { readonly result: readonly unknown[] };
}

/** By a real Prometheus (Debian: prometheus) that scrapes a real service: Grafana asks it the very same. */
describe('the dashboard', function () {
  this.timeout(3 * PATIENCE_MS);
  let system: TestSystem;
  let prometheus: Prometheus | undefined;
  let panels: readonly Panel[];

  before(async function () {
    panels = (JSON.parse(await readFile(DASHBOARD, 'utf8')) as { panels: Panel[] }).panels;
    system = await startSystem();
    prometheus = await startPrometheus(system);
    if (prometheus !== undefined) return;
    console.log('    No prometheus here (Debian: the package of that name): the dashboard is not asked.');
    await system.stop();
    this.skip();
  });

  after(async () => {
    if (prometheus === undefined) return;
    await prometheus.stop();
    await system.stop();
  });

  it('has an answer for every panel', async () => {
    system.startLoader();
    await pushRun(system, 'churn', '2026-11', [{ name: 'a.jsonl', content: scoreLines(25) }]);
    await untilFinal(system, 'churn', '2026-11', PATIENCE_MS);
    await system.request('GET', '/v1/models/churn/runs/none'); // a problem, for the panel of problems
    const exprs = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
    expect(exprs).to.have.length.above(20);
    for (const { title, expr } of exprs) {
      const answer = await eventually(
        () => prometheus?.query(expr) ?? Promise.reject(new Error('There is no Prometheus.')),
        ({ status, data }) => status === 'error' || (data?.result.length ?? 0) > 0,
        PATIENCE_MS,
      ).catch((error: Error) => {
        throw new Error(`${title}: ${expr}: ${error.message}`);
      });
      expect(answer.status, `${title}: ${expr}: ${answer.error}`).to.equal('success');
    }
  });

  it('has panels of different ids and titles', () => {
    expect(new Set(panels.map(({ id }) => id)).size).to.equal(panels.length);
    expect(new Set(panels.map(({ title }) => title)).size).to.equal(panels.length);
  });
});

interface Prometheus {
  query(expr: string): Promise<Answer>;
  stop(): Promise<void>;
}

/** Undefined when there is none on this machine. */
async function startPrometheus(system: TestSystem): Promise<Prometheus | undefined> {
  const dir = await mkdtemp(path.join(tmpdir(), 'ingest-prometheus-'));
  const config = path.join(dir, 'prometheus.yaml');
  const scrape = {
    job_name: 'score-ingest',
    scrape_interval: '1s',
    authorization: { credentials: system.token },
    static_configs: [{ targets: [new URL(system.url).host] }],
  };
  await writeFile(config, JSON.stringify({ scrape_configs: [scrape] })); // JSON is YAML
  const port = await freePort();
  const child = spawn(
    'prometheus',
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${path.join(dir, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ],
    { stdio: 'ignore' },
  );
  const started = await Promise.race([
    once(child, 'spawn').then(() => true),
    once(child, 'error').then(() => false),
  ]).catch(() => false);
  if (!started) {
    await rm(dir, { recursive: true, force: true });
    return undefined;
  }
  const exited = once(child, 'exit');
  const address = `http://127.0.0.1:${port}`;
  await eventually(
    () =>
      fetch(`${address}/-/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    Boolean,
    PATIENCE_MS,
  );
  return {
    async query(expr) {
      const answer = await fetch(`${address}/api/v1/query?query=${encodeURIComponent(expr)}`);
      return (await answer.json()) as Answer;
    },
    async stop() {
      child.kill('SIGTERM');
      await exited;
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('No port is free on 127.0.0.1.');
  return address.port;
}
