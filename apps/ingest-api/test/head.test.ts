import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { expect } from 'chai';
import { OPERATIONS } from '../src/http/operations.ts';
import { PAGE_ADDRESSES } from '../src/http/page.ts';
import { declare, scoreLines, startSystem, type TestSystem } from './support/system.ts';

const WITHIN_MS = 1_000;
const PARAMETERS: Readonly<Record<string, string>> = {
  model: 'churn',
  run: '2026-11',
  code: 'conflict',
  module: 'main.js',
};

describe('HEAD', () => {
  let system: TestSystem;
  let uploadUrl: string;
  before(async () => {
    system = await startSystem();
    const files = [{ name: 'a.jsonl', content: scoreLines(3) }];
    const [missing] = (await declare(system, 'churn', '2026-11', files)).missing.files;
    uploadUrl = missing?.uploadUrl ?? expect.fail('the file has no upload');
  });
  after(() => system.stop());

  /** Status and type; the body of an answer without an end is not waited for. */
  async function ask(method: string, path: string) {
    const signal = AbortSignal.timeout(WITHIN_MS);
    const answer = await fetch(new URL(path, system.url), {
      method,
      headers: { authorization: `Bearer ${system.token}` },
      signal,
    });
    const body = method === 'HEAD' ? await answer.text() : '';
    await answer.body?.cancel().catch(() => {});
    return { status: answer.status, type: answer.headers.get('content-type'), body };
  }

  const addresses = [
    ...OPERATIONS.filter(({ method }) => method === 'get').map(({ path }) => path),
    ...PAGE_ADDRESSES,
  ].map((path) => path.replace(/:(\w+)/g, (_, name: string) => PARAMETERS[name] ?? name));

  it('of every address that has a GET is answered at once, with the status and the type of the GET', async () => {
    expect(addresses.length).to.be.above(20);
    for (const address of addresses) {
      const { status, type } = await ask('GET', address);
      expect(status, address).to.equal(200);
      expect(await ask('HEAD', address), address).to.deep.equal({ status, type, body: '' });
    }
  });

  it('of the events takes no stream of the token', async () => {
    for (let request = 0; request < 20; request += 1)
      expect((await ask('HEAD', '/v1/events')).status).to.equal(200);
  });

  it('leaves the connection open, at every address and for an upload', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const headers = { authorization: `Bearer ${system.token}`, 'tus-resumable': '1.0.0' };
    const sockets = new Set<unknown>();
    for (const address of [...addresses, uploadUrl, '/v1/uploads/none', '/']) {
      const asked = request(new URL(address, system.url), { method: 'HEAD', agent, headers }).end();
      const [answer] = await once(asked, 'response');
      sockets.add(answer.socket);
      await once(answer.resume(), 'end');
      expect(sockets.size, address).to.equal(1);
    }
    agent.destroy();
  });
});
