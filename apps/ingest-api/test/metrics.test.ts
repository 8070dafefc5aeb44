import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { findTool } from './support/monitoring.ts';
import { pushRun, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

const run = promisify(execFile);
const DOCKER = new URL('../../../docker/', import.meta.url);

describe('the metrics', () => {
  let system: TestSystem;

  before(async () => {
    system = await startSystem();
    system.startLoader();
  });

  after(() => system.stop());

  const scrape = async () => (await system.request('GET', '/metrics')).text();

  it('count what came in and was loaded, and name neither run nor file', async () => {
    const content = scoreLines(25);
    await pushRun(system, 'churn', 'secret-run', [{ name: 'secret-file.jsonl', content }]);
    await untilFinal(system, 'churn', 'secret-run', 60_000);
    const text = await scrape();
    expect(text).to.include('ingest_loaded_rows_total 25\n');
    expect(text).to.include(`ingest_upload_bytes_total ${Buffer.byteLength(content)}\n`);
    expect(text).to.match(/ingest_last_published_timestamp_seconds\{model="churn"\} 1\d{9}/);
    expect(text).to.match(/ingest_loads_total\{outcome="published"\} 1\n/);
    expect(text).to.match(/ingest_load_phase_seconds_total\{phase="building_key"\} \d/);
    expect(text).to.match(/ingest_http_requests_total\{method="PATCH",route="[^"]*",status="204"\} 1\n/);
    expect(text).to.include('nodejs_eventloop_lag_seconds');
    expect(text).to.include('ingest_disk_free_bytes');
    expect(text).to.not.include('secret');
  });

  it('has every figure that alerts and dashboard ask for', async () => {
    const text = await scrape();
    for (const file of ['prometheus/alerts.yaml', 'grafana/dashboards/score-ingest.json']) {
      const asked = await readFile(new URL(file, DOCKER), 'utf8');
      const names = new Set(asked.match(/\b(ingest|nodejs|process)_[a-z0-9_]+\b/g));
      expect(names.size, file).to.be.above(5);
      for (const name of names) expect(text, file).to.match(new RegExp(`^(# TYPE )?${name}[{ ]`, 'm'));
    }
  });

  it('raises its alerts when it should, says promtool', async function () {
    this.timeout(180_000);
    const promtool = await findTool('promtool');
    if (promtool === undefined) return this.skip();
    const folder = fileURLToPath(new URL('prometheus/', DOCKER));
    const { stdout } = await run(promtool, ['test', 'rules', 'alerts.test.yaml'], { cwd: folder });
    expect(stdout).to.include('SUCCESS');
  });

  it('has routes for its alerts, and receivers for an operator to fill in, says amtool', async function () {
    this.timeout(180_000);
    const amtool = await findTool('amtool');
    if (amtool === undefined) return this.skip();
    const config = fileURLToPath(new URL('alertmanager/alertmanager.yaml', DOCKER));
    const { stdout } = await run(amtool, ['check-config', config]);
    expect(stdout).to.include('SUCCESS').and.include('2 receivers');
    for (const severity of ['page', 'ticket']) {
      const args = ['config', 'routes', 'test', `--config.file=${config}`, `severity=${severity}`];
      expect((await run(amtool, args)).stdout.trim()).to.equal(severity);
    }
  });

  it('has a paragraph in docs/operations.md for every alert', async () => {
    const alerts = await readFile(new URL('prometheus/alerts.yaml', DOCKER), 'utf8');
    const runbook = await readFile(new URL('../docs/operations.md', DOCKER), 'utf8');
    for (const [, name] of alerts.matchAll(/alert: (\w+)/g)) expect(runbook).to.include(`### ${name}\n`);
  });

  it('has the queue, and how long its oldest run waits', async () => {
    const text = await scrape();
    for (const name of ['queue_runs', 'queue_oldest_age_seconds', 'loaders', 'stalled_files'])
      expect(text).to.match(new RegExp(`^ingest_${name} \\d`, 'm'));
  });
});
