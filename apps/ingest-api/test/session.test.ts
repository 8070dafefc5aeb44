import { expect } from 'chai';
import { manifestOf, runPath, scoreLines, startSystem, type TestSystem } from './support/system.ts';

describe("the status page's session", () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  const manifest = manifestOf([{ name: 'a.jsonl', content: scoreLines(1) }]);
  const signIn = (headers: Record<string, string>) =>
    system.request('POST', '/session', { json: { token: system.token }, token: null, headers });

  it('is a cookie that scripts cannot read and other sites do not send', async () => {
    const answer = await signIn({ origin: new URL(system.url).origin });
    expect(answer.status).to.equal(200);
    const cookie = answer.headers.get('set-cookie') ?? '';
    for (const attribute of ['HttpOnly', 'SameSite=Strict', 'Path=/']) expect(cookie).to.contain(attribute);
    expect(await answer.text()).not.to.contain(system.token);
  });

  it('is not begun, and changes nothing, from a page of another site: 403', async () => {
    const cookie = `ingest_session=${system.token}`;
    const sites: Record<string, string>[] = [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site', origin: 'http://other.127.0.0.1' },
      {},
    ];
    for (const headers of sites) {
      const shape = JSON.stringify(headers);
      expect((await signIn(headers)).status, `sign-in ${shape}`).to.equal(403);
      const changed = await system.request('PUT', runPath('churn', 'r'), {
        json: manifest,
        token: null,
        headers: { ...headers, cookie },
      });
      expect(changed.status, `change ${shape}`).to.equal(403);
    }
    expect((await system.request('GET', runPath('churn', 'r'))).status).to.equal(404);
  });

  it('reads with the cookie alone, as a page does', async () => {
    const answer = await system.request('GET', '/v1/status', {
      token: null,
      headers: { cookie: `ingest_session=${system.token}` },
    });
    expect(answer.status).to.equal(200);
    expect(answer.headers.get('access-control-allow-origin')).to.equal(null);
  });
});
