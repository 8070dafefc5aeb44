import { expect } from 'chai';
import { type Database, openDatabase, type Scope } from 'db-schema';
import type { Kysely } from 'kysely';
import { pino } from 'pino';
import { parseModelName } from 'wire';
import { loadServeConfig } from '../src/config.ts';
import { createApp } from '../src/http/app.ts';
import { SESSION_COOKIE } from '../src/http/auth.ts';
import { rotateToken } from '../src/runs/tokens.ts';
import { ACCESS_RULES, type AccessRule, type Subject } from './support/access-rules.ts';
import { routesOf } from './support/express-routes.ts';
import { declare, type RequestOptions, startSystem, type TestSystem } from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });
const MODEL = 'churn';
const SCOPES: readonly Scope[] = ['push', 'read', 'operate', 'admin'];

describe('the access matrix', () => {
  let system: TestSystem;
  let db: Kysely<Database>;
  let routes: string[];
  const outsiders = new Map<string, Record<string, string>>();
  const insiders = new Map<string, { headers: Record<string, string>; scope: Scope }>();
  let stranger: string;
  let asked = 0;
  let subjects = 0;

  before(async () => {
    // Many times more than a minute allows: what too many are answered, `failed-logins` asks.
    system = await startSystem({ guard: { ...guard, failedLoginsPerMinute: 1_000_000 } });
    db = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'access matrix',
      maxConnections: 1,
      onIdleError: () => {},
    }).db;
    routes = routesOf(appToWalk(db)).filter((route) => !route.startsWith('ALL ')); // 405: methods.test.ts
    await makeTokens();
  });
  after(async () => {
    await db?.destroy();
    await system.stop();
  });

  async function makeTokens(): Promise<void> {
    const expired = await system.createToken({ name: 'expired', expiresAt: new Date(Date.now() - 1) });
    const revoked = await system.createToken({ name: 'revoked' });
    await system.query(`UPDATE ingest.api_token SET revoked_at = now() WHERE name = 'revoked'`);
    outsiders.set('no token', {});
    outsiders.set('a malformed token', bearer('not a token!'));
    outsiders.set('another scheme', {
      authorization: `Basic ${Buffer.from(`x:${system.token}`).toString('base64')}`,
    });
    outsiders.set('an unknown token', bearer(`si_${'A'.repeat(43)}`));
    outsiders.set('a token with its case turned', bearer(system.token.toUpperCase()));
    outsiders.set('an expired token', bearer(expired));
    outsiders.set('a revoked token', bearer(revoked));
    outsiders.set('a token as the cookie', { cookie: `${SESSION_COOKIE}=${system.token}` });
    outsiders.set('an unknown session', { cookie: `${SESSION_COOKIE}=${'A'.repeat(43)}` });
    const ended = await signIn(system.token);
    await system.request('DELETE', '/session', { token: null, headers: { ...OUR_PAGE, cookie: ended } });
    outsiders.set('a session that was signed out', { cookie: ended });
    outsiders.set('the id of a session as a token', bearer((await signIn(system.token)).split('=')[1] ?? ''));
    const old = await signIn(system.token);
    await system.query(
      `UPDATE ingest.session SET expires_at = now() WHERE session_sha256 = sha256(convert_to($1, 'UTF8'))`,
      [old.split('=')[1]],
    );
    outsiders.set('an expired session', { cookie: old });
    for (const [what, change] of [
      ['revoked', 'revoked_at'],
      ['expired', 'expires_at'],
    ]) {
      const session = await signIn(await system.createToken({ name: `later-${what}` }));
      await system.query(`UPDATE ingest.api_token SET ${change} = now() WHERE name = 'later-${what}'`);
      outsiders.set(`the session of a token that was ${what}`, { cookie: session });
    }
    const models = [parseModelName(MODEL)];
    for (const scope of SCOPES) {
      const token = await system.createToken({ name: `only-${scope}`, scopes: [scope], models });
      insiders.set(`a token that may ${scope}`, { headers: bearer(token), scope });
      const cookie = await signIn(token);
      insiders.set(`a session of a token that may ${scope}`, { headers: { ...OUR_PAGE, cookie }, scope });
    }
    const successor = await rotateToken(db, 'only-push', null, 'test');
    insiders.set('the successor of a token that may push', { headers: bearer(successor), scope: 'push' });
    stranger = await system.createToken({
      name: 'stranger',
      scopes: SCOPES,
      models: [parseModelName('another')],
    });
  }

  /** @returns the cookie. */
  async function signIn(token: string): Promise<string> {
    const answer = await system.request('POST', '/session', {
      json: { token },
      token: null,
      headers: OUR_PAGE,
    });
    expect(answer.status).to.equal(200);
    return answer.headers.get('set-cookie')?.split(';')[0] ?? '';
  }

  it('has a rule for every route, and no rule without a route', () => {
    const withoutRule = routes.filter((route) => ACCESS_RULES[route] === undefined);
    expect(withoutRule, 'routes without a rule in support/access-rules.ts').to.deep.equal([]);
    const withoutRoute = Object.keys(ACCESS_RULES).filter((route) => !routes.includes(route));
    expect(withoutRoute, 'rules without a route').to.deep.equal([]);
  });

  it('answers 401 to whoever has no valid token, everywhere but where it is open', async () => {
    for (const [name, rule] of rulesOfRoutes()) {
      const subject = await newSubject();
      for (const [who, headers] of outsiders) {
        const method = methodOf(name);
        const options = requestOf(rule, subject);
        const answer = await ask(method, addressOf(name, subject), {
          ...options,
          token: null,
          headers: { ...options.headers, ...headers },
        });
        if (rule.access === 'open') expect(answer.status, `${name} with ${who}`).not.to.equal(401);
        else expect(answer.status, `${method} at ${name} with ${who}`).to.equal(401);
      }
    }
  });

  it('answers 403 to a lesser scope, and what was asked for to the right one', async () => {
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access !== 'one model') continue;
      for (const [who, { headers, scope }] of insiders) {
        const subject = await newSubject();
        const options = requestOf(rule, subject);
        const answer = await ask(methodOf(name), addressOf(name, subject), {
          ...options,
          token: null,
          headers: { ...options.headers, ...headers },
        });
        const expected = rule.scopes.includes(scope) ? rule.answers : [403];
        expect(answer.status, `${name} with ${who}: ${answer.text}`).to.be.oneOf(expected);
      }
    }
  });

  it('answers 403 to whatever another page makes the browser send with the cookie, if it could change something', async () => {
    const cookie = await signIn(await system.createToken({ name: 'operator', scopes: SCOPES }));
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access === 'open') continue;
      const method = methodOf(name);
      if (['GET', 'HEAD', 'OPTIONS'].includes(method)) continue;
      for (const page of OTHER_PAGES) {
        const subject = await newSubject();
        const options = requestOf(rule, subject);
        const answer = await ask(method, addressOf(name, subject), {
          ...options,
          token: null,
          headers: { ...options.headers, ...page, cookie },
        });
        expect(answer.status, `${name} from ${JSON.stringify(page)}`).to.equal(403);
      }
    }
  });

  it('answers a foreign model like one that never was: 404, word for word', async () => {
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access !== 'one model') continue;
      const foreign = await newSubject();
      const absent = { model: 'no_such_model', run: foreign.run, uploadId: 'f'.repeat(32) };
      const method = methodOf(name);
      const answers = [];
      for (const subject of [foreign, absent]) {
        const answer = await ask(method, addressOf(name, subject), {
          ...requestOf(rule, subject),
          token: stranger,
        });
        expect(answer.status, `${method} at ${name} for ${subject.model}`).to.equal(404);
        answers.push(answer.text.replaceAll(subject.model, 'MODEL').replace(/"request_id":"[^"]*"/, ''));
      }
      expect(answers[0], `${method} at ${name}`).to.equal(answers[1]);
    }
  });

  it('leaves a foreign model out of lists and streams', async () => {
    const { run } = await newSubject();
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access !== 'any model') continue;
      const method = methodOf(name);
      const answer = await ask(method, addressOf(name, await newSubject()), { token: stranger });
      expect(answer.status, `${name}: ${answer.text}`).to.be.oneOf([200, 204]);
      expect(answer.text, name).not.to.contain(run);
      expect(answer.text, name).not.to.contain('"churn"');
    }
  });

  it('shows what belongs to every model only to a token that is bound to none', async () => {
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access !== 'every model') continue;
      const method = methodOf(name);
      const path = addressOf(name, await newSubject());
      expect((await ask(method, path, {})).status, name).to.equal(200);
      for (const headers of [bearer(stranger), ...[...insiders.values()].map((insider) => insider.headers)])
        expect((await ask(method, path, { token: null, headers })).status, name).to.equal(403);
    }
  });

  it('changed nothing by what it refused', async () => {
    const { model, run, uploadId } = await newSubject();
    for (const [name, rule] of rulesOfRoutes()) {
      if (rule.access === 'open') continue;
      const address = addressOf(name, { model, run, uploadId });
      const method = methodOf(name);
      await ask(method, address, { ...requestOf(rule, { model, run, uploadId }), token: stranger });
      await ask(method, address, { ...requestOf(rule, { model, run, uploadId }), token: null });
    }
    const rows = await system.query(
      `SELECT r.state, r.revision, u.offset_bytes::int, u.removed_at FROM ingest.run_revision r
       JOIN ingest.run_file f USING (revision_id) JOIN ingest.upload u USING (upload_id) WHERE r.run_key = $1`,
      [run],
    );
    expect(rows).to.deep.equal([{ state: 'receiving', revision: 1, offset_bytes: 0, removed_at: null }]);
    console.log(
      `      ${routes.length} routes, ${outsiders.size + insiders.size + 1} kinds of token, ${asked} requests`,
    );
  });

  function rulesOfRoutes(): [string, AccessRule][] {
    return routes.flatMap((route) => {
      const rule = ACCESS_RULES[route];
      return rule === undefined ? [] : [[route, rule] as [string, AccessRule]];
    });
  }

  async function newSubject(): Promise<Subject> {
    subjects += 1;
    const run = `run-${subjects}`;
    const declared = await declare(system, MODEL, run, [
      { name: 'a.jsonl', content: `{"pk":"${run}","score":1}` },
    ]);
    return { model: MODEL, run, uploadId: declared.missing.files[0]?.uploadUrl.split('/').at(-1) ?? '' };
  }

  /** The status and what can be read of the body within a moment: a stream of events does not end. */
  async function ask(method: string, path: string, options: RequestOptions) {
    asked += 1;
    const answer = await system.request(method, path, options);
    if (answer.headers.get('content-type')?.startsWith('text/event-stream')) {
      const reader = answer.body?.getReader();
      const first = await reader?.read();
      await reader?.cancel();
      return { status: answer.status, text: Buffer.from(first?.value ?? []).toString() };
    }
    return { status: answer.status, text: await answer.text() };
  }
});

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

const OUR_PAGE = { 'sec-fetch-site': 'same-origin' };
const OTHER_PAGES: readonly Record<string, string>[] = [
  {},
  { 'sec-fetch-site': 'cross-site', origin: 'https://elsewhere.example' },
];

/** Only to be looked at: it is given nothing that works but the database. */
function appToWalk(db: Kysely<Database>) {
  return createApp({
    db,
    maxUploadBytes: 1,
    expireUploadsMs: 1,
    store: {} as never,
    tusStore: {} as never,
    locks: {} as never,
    readiness: { check: async () => {} },
    room: {} as never,
    runLimits: { maxRows: 1, maxBytes: 1 },
    log: pino({ level: 'silent' }),
    guard: { ratePerMinute: 1, failedLoginsPerMinute: 1, trustedProxies: [] } as never,
    isStopping: () => true,
    isOpen: () => true,
    onQueued: () => {},
    onLost: () => {},
  });
}

function methodOf(name: string): string {
  return name.split(' ')[0] ?? '';
}

function addressOf(name: string, { model, run, uploadId }: Subject): string {
  const path = name.split(' ')[1] ?? '';
  return path
    .replace(':model', model)
    .replace(':run', encodeURIComponent(run))
    .replace(':id', uploadId)
    .replace(':module', 'main.js')
    .replace(':code', 'not_found');
}

function requestOf(rule: AccessRule, subject: Subject): RequestOptions {
  if (rule.access === 'one model') return rule.request?.(subject) ?? {};
  return rule.access === 'any model' ? (rule.request ?? {}) : {};
}
