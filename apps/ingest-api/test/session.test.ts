import { createHash } from 'node:crypto';
import { expect } from 'chai';
import { loadServeConfig } from '../src/config.ts';
import {
  eventually,
  manifestOf,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });
const OUR_PAGE = { 'sec-fetch-site': 'same-origin' };

describe("the status page's session", () => {
  let system: TestSystem;
  before(async () => {
    // The test plays the proxy.
    system = await startSystem({ guard: { ...guard, trustedProxies: ['127.0.0.1'] } });
  });
  after(() => system.stop());

  const manifest = manifestOf([{ name: 'a.jsonl', content: scoreLines(1) }]);
  const send = (headers: Record<string, string>, token = system.token) =>
    system.request('POST', '/session', { json: { token }, token: null, headers });
  const statusOf = async (cookie: string, headers: Record<string, string> = {}) =>
    (await system.request('GET', '/v1/status', { token: null, headers: { ...headers, cookie } })).status;

  /** @returns the cookie as the browser sends it back. */
  async function signIn(token = system.token, headers: Record<string, string> = {}): Promise<string> {
    const answer = await send({ ...OUR_PAGE, ...headers }, token);
    expect(answer.status, await answer.clone().text()).to.equal(200);
    return (answer.headers.get('set-cookie') ?? '').split(';')[0] ?? '';
  }

  it('is a random id in a cookie that scripts cannot read and other sites do not send', async () => {
    const answer = await send({ origin: new URL(system.url).origin });
    expect(answer.status).to.equal(200);
    const cookie = answer.headers.get('set-cookie') ?? '';
    for (const attribute of ['HttpOnly', 'SameSite=Strict', 'Path=/', 'Max-Age=43200'])
      expect(cookie).to.contain(attribute);
    expect(cookie)
      .to.match(/^ingest_session=[A-Za-z0-9_-]{43};/)
      .and.not.contain('Secure');
    expect(cookie + (await answer.text())).not.to.contain(system.token);
    const id = cookie.slice('ingest_session='.length).split(';')[0] ?? '';
    const [row, ...more] = await system.query(
      `SELECT s.*, t.name, expires_at_of.hours FROM ingest.session s JOIN ingest.api_token t USING (token_id),
       LATERAL (SELECT extract(epoch FROM s.expires_at - s.created_at)::int / 3600 AS hours) expires_at_of`,
    );
    expect(more).to.deep.equal([]);
    expect(row).to.deep.include({ name: 'tester', hours: 12 });
    expect(row?.session_sha256).to.deep.equal(createHash('sha256').update(id).digest());
  });

  it('is not begun, and changes nothing, from a page of another site: 403', async () => {
    const cookie = await signIn();
    const sites: Record<string, string>[] = [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site', origin: 'http://other.127.0.0.1' },
      {},
    ];
    for (const headers of sites) {
      const shape = JSON.stringify(headers);
      expect((await send(headers)).status, `sign-in ${shape}`).to.equal(403);
      const changed = await system.request('PUT', runPath('churn', 'r'), {
        json: manifest,
        token: null,
        headers: { ...headers, cookie },
      });
      expect(changed.status, `change ${shape}`).to.equal(403);
      const left = await system.request('DELETE', '/session', {
        token: null,
        headers: { ...headers, cookie },
      });
      expect(left.status, `sign-out ${shape}`).to.equal(403);
    }
    expect((await system.request('GET', runPath('churn', 'r'))).status).to.equal(404);
    expect(await statusOf(cookie)).to.equal(200);
  });

  it('reads with the cookie alone, as a page does', async () => {
    const cookie = await signIn();
    const answer = await system.request('GET', '/v1/status', { token: null, headers: { cookie } });
    expect(answer.status).to.equal(200);
    expect(answer.headers.get('access-control-allow-origin')).to.equal(null);
    const session = await system.request('GET', '/session', { token: null, headers: { cookie } });
    expect(await session.json()).to.deep.include({ signedIn: true, name: 'tester' });
  });

  it('ends on the server at sign-out, at once, and only that one', async () => {
    const [cookie, other] = [await signIn(), await signIn()];
    const answer = await system.request('DELETE', '/session', {
      token: null,
      headers: { ...OUR_PAGE, cookie },
    });
    expect(answer.headers.get('set-cookie')).to.match(/ingest_session=;/);
    expect(await statusOf(cookie), 'the cookie as somebody has copied it').to.equal(401);
    expect(await statusOf(other)).to.equal(200);
    const session = await system.request('GET', '/session', { token: null, headers: { cookie } });
    expect(await session.json()).to.deep.include({ signedIn: false, name: null });
  });

  it('ends when another one is begun from the same page', async () => {
    const before = await signIn();
    const after = await signIn(system.token, { cookie: before });
    expect([await statusOf(before), await statusOf(after)]).to.deep.equal([401, 200]);
  });

  it('ends with its time and with its token, whose end other processes see within a second', async () => {
    const ends: Record<string, string> = {
      'it has expired': 'UPDATE ingest.session SET expires_at = now() WHERE token_id = $1',
      'its token was revoked': 'UPDATE ingest.api_token SET revoked_at = now() WHERE token_id = $1',
      'its token has expired': 'UPDATE ingest.api_token SET expires_at = now() WHERE token_id = $1',
    };
    for (const [why, end] of Object.entries(ends)) {
      const name = why.replaceAll(' ', '-');
      const cookie = await signIn(await system.createToken({ name }));
      const [row] = await system.query('SELECT token_id FROM ingest.api_token WHERE name = $1', [name]);
      await system.query(end, [row?.token_id]);
      const isRefused = (status: number) => status === 401;
      await eventually(() => statusOf(cookie), isRefused, 1_500);
    }
    await system.restartService(); // which sweeps
    const left = () =>
      system.query(
        `SELECT t.name FROM ingest.session s JOIN ingest.api_token t USING (token_id) WHERE t.name LIKE 'it%'`,
      );
    await eventually(left, (rows) => rows.length === 0);
  });

  it('is one of a hundred of its token at most: the oldest one ends', async () => {
    const token = await system.createToken({ name: 'busy' });
    const oldest = await signIn(token);
    await system.query(
      `INSERT INTO ingest.session (session_sha256, token_id, expires_at)
       SELECT sha256(convert_to(i::text, 'UTF8')), token_id, now() + interval '1 hour'
       FROM ingest.api_token, generate_series(1, 99) i WHERE name = 'busy'`,
    );
    expect(await statusOf(oldest)).to.equal(200);
    await signIn(token);
    await eventually(
      () => statusOf(oldest),
      (status) => status === 401,
      1_500,
    );
  });

  it('over HTTPS is a cookie of this host alone, and no other one counts', async () => {
    const { host } = new URL(system.url);
    const https: Record<string, string>[] = [{ 'x-forwarded-proto': 'https' }, { origin: `https://${host}` }];
    for (const headers of https) {
      const answer = await send({ ...OUR_PAGE, ...headers });
      const cookie = answer.headers.get('set-cookie') ?? '';
      expect(cookie).to.match(/^__Host-ingest_session=/);
      for (const attribute of ['Secure', 'HttpOnly', 'SameSite=Strict', 'Path=/'])
        expect(cookie).to.contain(attribute);
      expect(cookie).not.to.contain('Domain');
      const sent = cookie.split(';')[0] ?? '';
      expect(await statusOf(sent, headers)).to.equal(200);
      // A proxy that nobody said is to be trusted, and a GET, which has no Origin.
      expect(await statusOf(sent)).to.equal(200);
      const planted = (await signIn()).split(';')[0] ?? '';
      expect(await statusOf(planted, headers), 'set by a page without HTTPS').to.equal(401);
    }
  });

  it('is begun with a bad token ten times a minute at most; a good token still begins one', async () => {
    const attempts = Array.from({ length: 12 }, (_, i) => send(OUR_PAGE, `si_wrong${i}`));
    const statuses = (await Promise.all(attempts)).map(({ status }) => status).sort();
    expect(statuses).to.deep.equal([...Array(10).fill(401), 429, 429]);
    const refused = await send(OUR_PAGE, 'si_wrong');
    expect(refused.status).to.equal(429);
    expect(Number(refused.headers.get('retry-after'))).to.be.within(1, 60);
    await signIn();
    const denials = () =>
      system.query(
        `SELECT count(*)::int AS count FROM ingest.audit_event
         WHERE action = 'deny' AND actor = 'nobody' AND detail->>'path' = '/session' AND detail->>'problem' = 'unauthenticated'`,
      );
    await eventually(denials, ([row]) => row?.count === 10);
    const metrics = await (await system.request('GET', '/metrics')).text();
    expect(metrics).to.match(
      /ingest_http_requests_total\{method="POST",route="\/session",status="401"\} 10\n/,
    );
    expect(metrics).to.match(
      /ingest_http_requests_total\{method="POST",route="\/session",status="429"\} 3\n/,
    );
  });

  it('is begun sixty times a minute with one token', async () => {
    const token = await system.createToken({ name: 'restless' });
    const statuses = [];
    for (let i = 0; i < 61; i += 1) statuses.push((await send(OUR_PAGE, token)).status);
    expect(statuses).to.deep.equal([...Array(60).fill(200), 429]);
    await signIn();
  });
});
