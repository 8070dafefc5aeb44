import { expect } from 'chai';
import { waitForLog } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

/** A line of the log has the path of its request: together more than a pipe and the 4 MiB that the service keeps. */
const LONG_PATH = `/${'x'.repeat(8_000)}`;
const REQUESTS = 1_000;
const WITHIN_MS = 5_000;

describe('a log that nobody reads', () => {
  let system: TestSystem;
  let service: Service;
  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
  });
  after(() => system.stop());

  const ask = (path: string) =>
    fetch(`${service.url}${path}`, {
      headers: { authorization: `Bearer ${system.token}` },
      signal: AbortSignal.timeout(WITHIN_MS),
    });

  it('delays no answer, keeps 4 MiB, and counts what it drops', async () => {
    service.leaveUnread(true);
    for (let request = 0; request < REQUESTS; request += 1) await (await ask(LONG_PATH)).text();
    expect((await ask('/v1/status')).status).to.equal(200);

    service.leaveUnread(false);
    const { lines } = await waitForLog(service, 'lines of the log were dropped, because nobody read it');
    const whole = service.stdout().split('\n').slice(0, -1);
    const kept = whole.filter((line) => JSON.parse(line).msg === 'request').length;
    expect(kept, 'lines kept for the reader').to.be.above(400);
    expect(kept + Number(lines), 'lines kept and counted').to.equal(REQUESTS + 1); // and that of the status
  });
});
