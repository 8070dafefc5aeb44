import { expect } from 'chai';
import { pushRun, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

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
    expect(text).to.match(/ingest_http_requests_total\{method="PATCH",route="[^"]*",status="204"\} 1\n/);
    expect(text).to.include('nodejs_eventloop_lag_seconds');
    expect(text).to.include('ingest_disk_free_bytes');
    expect(text).to.not.include('secret');
  });

  it('has the queue, and how long its oldest run waits', async () => {
    const text = await scrape();
    for (const name of ['queue_runs', 'queue_oldest_age_seconds', 'loaders', 'stalled_files'])
      expect(text).to.match(new RegExp(`^ingest_${name} \\d`, 'm'));
  });
});
