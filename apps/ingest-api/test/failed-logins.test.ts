import { randomBytes } from 'node:crypto';
import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import { loadServeConfig } from '../src/config.ts';
import { Principals } from '../src/runs/tokens.ts';
import { eventually, startSystem, type TestSystem } from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });

describe('requests without a valid token', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem({ guard: { ...guard, failedLoginsPerMinute: 5 } });
  });
  after(() => system.stop());

  const randomSecret = () => `si_${randomBytes(32).toString('base64url')}`;
  const ask = (token: string | null, headers: Record<string, string> = {}) =>
    system.request('GET', '/v1/runs', { token, headers });
  const bad: Record<string, () => Promise<Response>> = {
    'no token': () => ask(null),
    'a malformed one': () => ask('not a token!'),
    'another one each time': () => ask(randomSecret()),
    'the same one': () => ask('si_wrong'),
    'another session each time': () => ask(null, { cookie: `ingest_session=${randomSecret()}` }),
    'another secure session each time': () =>
      ask(null, { cookie: `__Host-ingest_session=${randomSecret()}` }),
    'a session that it asks about': () =>
      system.request('GET', '/session', { token: null, headers: { cookie: 'ingest_session=gone' } }),
  };

  it('are answered 429 after a few, whatever is bad about them, and never a valid one of the same address', async () => {
    const first = [];
    for (let i = 0; i < 6; i += 1) first.push((await ask(randomSecret())).status);
    expect(first).to.deep.equal([401, 401, 401, 401, 401, 429]);
    for (const [what, send] of Object.entries(bad)) {
      const answers = await Promise.all(Array.from({ length: 30 }, send));
      expect(new Set(answers.map(({ status }) => status)), what).to.deep.equal(new Set([429]));
      expect(Number(answers[0]?.headers.get('retry-after')), what).to.be.within(1, 60);
      expect((await ask(system.token)).status, `a valid token after ${what}`).to.equal(200);
    }
    const fresh = await system.createToken({ name: 'made-meanwhile' });
    const flood = Array.from({ length: 100 }, () => ask(randomSecret()));
    expect((await ask(fresh)).status, 'a token that is new').to.equal(200);
    await Promise.all(flood);
  });

  it('cost no query each, and those with a valid token one a second', async () => {
    const { db, pool } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'failed logins',
      maxConnections: 1, // so every query waits for the one before it
      onIdleError: () => {},
    });
    let queries = 0;
    pool.on('acquire', () => {
      queries += 1;
    });
    try {
      const principals = new Principals(db);
      await principals.find('token', system.token);
      const startMs = performance.now();
      queries = 0;
      while (performance.now() - startMs < 1_500) {
        const unknown = Array.from({ length: 500 }, () => principals.find('token', randomSecret()));
        expect((await Promise.all(unknown)).filter((it) => it !== undefined)).to.deep.equal([]);
      }
      expect(queries).to.be.at.most(1 + Math.ceil((performance.now() - startMs) / 250));
      const knownFromMs = performance.now();
      queries = 0;
      let found = 0;
      while (performance.now() - knownFromMs < 1_500) {
        const known = Array.from({ length: 500 }, () => principals.find('token', system.token));
        found += (await Promise.all(known)).filter((it) => it?.name === 'tester').length;
      }
      expect(found).to.be.above(1_000);
      expect(queries).to.be.at.most(1 + Math.ceil((performance.now() - knownFromMs) / 1_000));
    } finally {
      await db.destroy();
    }
  });
});

describe('the audit of denials', () => {
  let system: TestSystem;
  const now = Date.now;
  before(async () => {
    system = await startSystem({ guard: { ...guard, failedLoginsPerMinute: 100_000 } });
  });
  after(() => system.stop());
  afterEach(() => {
    Date.now = now;
  });

  const denials = (actor: string) =>
    system.query(
      `SELECT detail->>'problem' AS problem, detail->>'path' AS path, (detail->>'othersNotKept')::int AS others
       FROM ingest.audit_event WHERE action = 'deny' AND actor = $1 ORDER BY event_id`,
      [actor],
    );
  const atLeast = (actor: string, count: number) =>
    eventually(
      () => denials(actor),
      (rows) => rows.length >= count,
    );
  const knock = (token: string | null, path: string) =>
    system.request('PUT', `/v1/models/${path}`, { token, json: {} });

  it('keeps those of a real token through any amount of junk, and through those of another token', async () => {
    const [loud, quiet] = [
      await system.createToken({ name: 'loud', scopes: ['read'] }),
      await system.createToken({ name: 'quiet', scopes: ['read'], models: ['churn' as never] }),
    ];
    // 30 at once: of more connections without a token from one address the oldest are closed.
    for (let first = 0; first < 300; first += 30)
      await Promise.all(Array.from({ length: 30 }, (_, i) => knock(null, `junk${first + i}`)));
    await Promise.all(Array.from({ length: 100 }, () => knock(loud, 'churn')));
    expect((await knock(quiet, 'churn')).status).to.equal(403);
    expect((await knock(quiet, 'foreign')).status).to.equal(404);
    const kept = await atLeast('quiet', 2);
    expect(kept.map(({ problem }) => problem).sort()).to.deep.equal(['forbidden', 'not_covered']);
    expect(await atLeast('loud', 60)).to.have.length(60);
    expect(await atLeast('nobody', 60)).to.have.length(60);
  });

  it('says in the next one that it keeps how many it has left out', async () => {
    Date.now = () => now() + 61_000;
    const loud = await system.createToken({ name: 'louder', scopes: ['read'] });
    await knock(null, 'next');
    expect((await atLeast('nobody', 61)).at(-1)).to.include({ path: '/v1/models/next', others: 240 });
    for (let i = 0; i < 65; i += 1) await knock(loud, 'churn');
    Date.now = () => now() + 123_000;
    await knock(loud, 'churn');
    expect((await atLeast('louder', 61)).at(-1)).to.include({ others: 5 });
  });
});
