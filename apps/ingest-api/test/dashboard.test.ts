import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { parse } from 'yaml';
import { findInstalled, findTool, freePort, startTool } from './support/monitoring.ts';
import {
  eventually,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const PATIENCE_MS = 60_000;
const DOCKER = new URL('../../../docker/', import.meta.url);
const DASHBOARD = new URL('grafana/dashboards/score-ingest.json', DOCKER);
const ALERTS = new URL('prometheus/alerts.yaml', DOCKER);
const ALERTMANAGER = new URL('alertmanager/alertmanager.yaml', DOCKER);

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

/** By a real Prometheus and a real Alertmanager, with a real service: Grafana asks Prometheus the very same. */
describe('the dashboard and the alerts', function () {
  this.timeout(3 * PATIENCE_MS);
  const stops: (() => Promise<unknown>)[] = [];
  const notifications: Notification[] = [];
  let system: TestSystem;
  let prometheus: string;
  let alertmanagerFile: string | undefined;
  let panels: readonly Panel[];

  before(async function () {
    const prometheusFile = await findTool('prometheus');
    if (prometheusFile === undefined) return this.skip();
    alertmanagerFile = findInstalled('prometheus-alertmanager') ?? findInstalled('alertmanager');
    panels = (JSON.parse(await readFile(DASHBOARD, 'utf8')) as { panels: Panel[] }).panels;
    const dir = await mkdtemp(path.join(tmpdir(), 'ingest-monitoring-'));
    stops.push(() => rm(dir, { recursive: true, force: true }));
    system = await startSystem();
    stops.push(() => system.stop());
    const alertmanagerPort = await freePort();
    if (alertmanagerFile !== undefined)
      await startAlertmanager(alertmanagerFile, dir, alertmanagerPort, await startReceiver());
    prometheus = await startPrometheus(prometheusFile, dir, alertmanagerPort);
  });

  after(async () => {
    for (const stop of stops.reverse()) await stop();
  });

  /** Where the operator's receivers send notifications to. */
  async function startReceiver(): Promise<string> {
    const server = createServer(async (req, res) => {
      const chunks = await req.toArray();
      notifications.push(JSON.parse(Buffer.concat(chunks).toString()));
      res.end();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    stops.push(async () => server.close());
    const address = server.address();
    return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  }

  /** With the routes of the repository, and the receivers filled in. */
  async function startAlertmanager(file: string, dir: string, port: number, receiver: string): Promise<void> {
    const config = parse(await readFile(ALERTMANAGER, 'utf8'));
    config.route.group_wait = '1s';
    for (const { name } of config.receivers) expect(name).to.be.oneOf(['page', 'ticket']);
    config.receivers = ['page', 'ticket'].map((name) => ({ name, webhook_configs: [{ url: receiver }] }));
    const configFile = path.join(dir, 'alertmanager.yaml');
    await writeFile(configFile, JSON.stringify(config)); // JSON is YAML
    const storage = `--storage.path=${path.join(dir, 'alertmanager')}`;
    const listen = [`--web.listen-address=127.0.0.1:${port}`, '--cluster.listen-address='];
    const { stop } = await startTool(
      file,
      [`--config.file=${configFile}`, storage, ...listen],
      port,
      PATIENCE_MS,
    );
    stops.push(stop);
  }

  async function startPrometheus(file: string, dir: string, alertmanagerPort: number): Promise<string> {
    const config = path.join(dir, 'prometheus.yaml');
    const scrape = {
      job_name: 'score-ingest',
      scrape_interval: '1s',
      authorization: { credentials: system.token },
      static_configs: [{ targets: [new URL(system.url).host] }],
    };
    const settings = {
      global: { evaluation_interval: '1s' },
      rule_files: [fileURLToPath(ALERTS)],
      alerting: { alertmanagers: [{ static_configs: [{ targets: [`127.0.0.1:${alertmanagerPort}`] }] }] },
      scrape_configs: [scrape],
    };
    await writeFile(config, JSON.stringify(settings));
    const port = await freePort();
    const data = `--storage.tsdb.path=${path.join(dir, 'prometheus')}`;
    const listen = `--web.listen-address=127.0.0.1:${port}`;
    const { url, stop } = await startTool(file, [`--config.file=${config}`, data, listen], port, PATIENCE_MS);
    stops.push(stop);
    return url;
  }

  async function query(expr: string): Promise<Answer> {
    const answer = await fetch(`${prometheus}/api/v1/query?query=${encodeURIComponent(expr)}`);
    return (await answer.json()) as Answer;
  }

  it('has an answer for every panel', async () => {
    system.startLoader();
    await pushRun(system, 'churn', '2026-11', [{ name: 'a.jsonl', content: scoreLines(25) }]);
    await untilFinal(system, 'churn', '2026-11', PATIENCE_MS);
    await system.request('GET', '/v1/models/churn/runs/none'); // a problem, for the panel of problems
    const exprs = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
    expect(exprs).to.have.length.above(20);
    for (const { title, expr } of exprs) {
      const answer = await eventually(
        () => query(expr),
        ({ status, data }) => status === 'error' || (data?.result.length ?? 0) > 0,
        PATIENCE_MS,
      ).catch((error: Error) => {
        throw new Error(`${title}: ${expr}: ${error.message}`);
      });
      expect(answer.status, `${title}: ${expr}: ${answer.error}`).to.equal('success');
    }
  });

  it('notifies the receiver of tickets of a failed run, with the name of its model', async function () {
    if (alertmanagerFile === undefined) return this.skip();
    await pushRun(system, 'fraud', '2026-11', [{ name: 'a.jsonl', content: 'no json\n' }]);
    const [found] = await eventually(
      async () => notifications.filter(({ alerts }) => alerts[0]?.labels.alertname === FAILED),
      ({ length }) => length > 0,
      PATIENCE_MS,
    );
    expect(found?.receiver).to.equal('ticket');
    expect(found?.alerts[0]?.labels).to.include({ severity: 'ticket', model: 'fraud' });
    expect(found?.alerts[0]?.annotations)
      .to.have.property('summary')
      .that.includes('Model fraud has failed runs');
  });

  it('has panels of different ids and titles', () => {
    expect(new Set(panels.map(({ id }) => id)).size).to.equal(panels.length);
    expect(new Set(panels.map(({ title }) => title)).size).to.equal(panels.length);
  });
});

const FAILED = 'IngestRunFailed';

/** What a receiver of Alertmanager gets. */
interface Notification {
  readonly receiver: string;
  readonly alerts: readonly {
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: object;
  }[];
}
