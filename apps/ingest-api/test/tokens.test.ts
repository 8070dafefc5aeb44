import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'chai';
import { eventually, runPath, startSystem, type TestSystem } from './support/system.ts';

const MAIN = path.join(import.meta.dirname, '..', 'bin', 'ingest-api.js');

describe('ingest-api token', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  function token(...args: string[]) {
    const env = { ...process.env, DATABASE_URL: system.databaseUrl };
    const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, 'token', ...args], {
      env,
      encoding: 'utf8',
      timeout: 30_000,
    });
    return { status, stdout, stderr };
  }
  /** While a command runs here, nothing keeps a connection open. */
  const headers = { connection: 'close' };
  const statusWith = async (secret: string) =>
    (await system.request('GET', runPath('churn', 'r'), { token: secret, headers })).status;

  /** The service may have let it in a moment ago, and remembers that for a second. */
  const refused = (secret: string) =>
    eventually(
      () => statusWith(secret),
      (status) => status === 401,
      2_000,
    );

  it('makes a token of 256 bits, shows it once, and refuses a second one of its name', async () => {
    const made = token('create', 'airflow', '--model', 'churn', '--expires-days', '90');
    expect(made.status, made.stderr).to.equal(0);
    const secret = made.stdout.trim();
    expect(secret).to.match(/^si_[A-Za-z0-9_-]{43}$/);
    expect(await statusWith(secret)).to.equal(404); // it is let in: the run was never declared
    const again = token('create', 'airflow');
    expect(again.status).to.equal(2);
    expect(again.stderr).to.contain('ingest-api token rotate airflow');
    expect(token('list').stdout).not.to.contain(secret.slice(3));
    for (const [args, rule] of [
      [['create', ''], '1 to 64 letters'],
      [['create', 'two words'], '1 to 64 letters'],
      [['create', 'x'.repeat(65)], '1 to 64 letters'],
      [['create', 'late', '--expires-days', '99999999999'], 'from 1 to 36500'],
    ] as const) {
      const refused = token(...args);
      expect(refused.status, refused.stderr).to.equal(2);
      expect(refused.stderr).to.contain(rule).and.not.contain('constraint');
    }
  });

  it('lets two tokens of a name live during a rotation, never three, and ends the older one', async () => {
    const first = token('create', 'rotated', '--scope', 'read', '--model', 'churn').stdout.trim();
    const second = token('rotate', 'rotated').stdout.trim();
    expect(second).not.to.equal(first);
    expect([await statusWith(first), await statusWith(second)]).to.deep.equal([404, 404]);
    const third = token('rotate', 'rotated');
    expect(third.status).to.equal(2);
    expect(third.stderr).to.contain('--keep-newest');
    const rows = await system.query(
      `SELECT DISTINCT scopes, models FROM ingest.api_token WHERE name = 'rotated'`,
    );
    expect(rows).to.deep.equal([{ scopes: ['read'], models: ['churn'] }]);
    expect(token('revoke', 'rotated', '--keep-newest').stdout).to.contain('revoked 1 token');
    expect([await refused(first), await statusWith(second)]).to.deep.equal([401, 404]);
    expect(token('revoke', 'rotated').stdout).to.contain('revoked 1 token');
    expect(await refused(second)).to.equal(401);
    expect(token('revoke', 'rotated').status).to.equal(2);
    expect(token('rotate', 'rotated').status).to.equal(2);
  });

  it('rotates and revokes a token that is about to expire, or has expired, and its metric ends', async () => {
    const metrics = await system.createToken({ name: 'prometheus', scopes: ['read'] });
    const isNamed = async (name: string) =>
      (await (await system.request('GET', '/metrics', { token: metrics, headers })).text()).includes(
        `ingest_token_expiry_timestamp_seconds{token="${name}"}`,
      );
    for (const [state, end] of [
      ['live', `now() + interval '2 days'`],
      ['expired', `now() - interval '2 days'`],
    ]) {
      for (const command of ['rotate', 'revoke']) {
        const name = `${state}-${command}`;
        const first = token('create', name, '--scope', 'read', '--model', 'churn').stdout.trim();
        await system.query(`UPDATE ingest.api_token SET expires_at = ${end} WHERE name = $1`, [name]);
        expect(await isNamed(name), name).to.equal(true);
        const done = token(command, name);
        expect(done.status, done.stderr).to.equal(0);
        expect(await isNamed(name), name).to.equal(false);
        if (command === 'rotate') {
          const second = done.stdout.trim();
          expect(await statusWith(second)).to.equal(404);
          expect(token('revoke', name, '--keep-newest').stdout).to.contain('revoked 1 token');
          expect(await statusWith(second)).to.equal(404);
          const rows = await system.query(
            'SELECT DISTINCT scopes, models FROM ingest.api_token WHERE name = $1',
            [name],
          );
          expect(rows).to.deep.equal([{ scopes: ['read'], models: ['churn'] }]);
        }
        await refused(first);
      }
    }
  });

  it('keeps the newest valid token, though a newer one has expired', async () => {
    const valid = token('create', 'overtaken').stdout.trim();
    token('rotate', 'overtaken');
    await system.query(`UPDATE ingest.api_token SET expires_at = now() - interval '1 day'
      WHERE token_id = (SELECT max(token_id) FROM ingest.api_token WHERE name = 'overtaken')`);
    expect(token('revoke', 'overtaken', '--keep-newest').stdout).to.contain('revoked 1 token');
    expect(await statusWith(valid)).to.equal(404);
  });

  it('lists who has a token, what for, until when, and when it was used last', async () => {
    const twice = ['--scope', 'operate,read,operate', '--model', 'churn', '--model', 'churn'];
    const secret = token('create', 'listed', ...twice).stdout.trim();
    const listed = () =>
      token('list', '--json')
        .stdout.trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Record<string, unknown>)
        .find(({ name }) => name === 'listed');
    expect(listed()).to.deep.include({ state: 'live', models: ['churn'], last_used_at: null });
    await statusWith(secret);
    expect(listed()?.last_used_at).to.be.a('string');
    expect(token('list').stdout).to.match(/listed\s+live\s+operate,read\s+churn\s/);
  });

  it('keeps in the audit log who made and who ended a token', async () => {
    const rows = await system.query(
      `SELECT action, count(*)::int AS count FROM ingest.audit_event
       WHERE detail->>'name' = 'rotated' AND actor LIKE 'cli:%' GROUP BY action ORDER BY action`,
    );
    expect(rows).to.deep.equal([
      { action: 'create_token', count: 2 },
      { action: 'revoke_token', count: 2 },
    ]);
  });

  it('writes a list of any length whole, and does not end with 0 when it cannot write', async () => {
    await system.query(
      `INSERT INTO ingest.api_token (name, token_sha256, scopes)
       SELECT 'many-' || n, sha256(n::text::bytea), '{read}' FROM generate_series(1, 1000) n`,
    );
    const { stdout } = token('list', '--json');
    expect(stdout.length).to.be.above(64 * 1024);
    expect(stdout.match(/"name":"many-\d+"/g)).to.have.length(1000);
    const env = { ...process.env, DATABASE_URL: system.databaseUrl };
    const full = openSync('/dev/full', 'w');
    for (const args of [['token', 'list', '--json'], ['--help'], ['token', 'create', '--help']]) {
      const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
        env,
        encoding: 'utf8',
        stdio: ['ignore', full, 'pipe'],
      });
      expect(status, args.join(' ')).to.equal(1);
      expect(stderr).to.contain('could not be written: ENOSPC');
    }
    closeSync(full);
  });

  it('says 2 for a wrong use, and names the scopes there are', () => {
    const wrong = token('create', 'x', '--scope', 'write');
    expect(wrong.status).to.equal(2);
    expect(wrong.stderr).to.contain('push, read, operate, admin');
  });
});
