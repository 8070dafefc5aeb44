import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { connect, migrateToLatest } from 'db-schema';
import { createTestDatabase } from 'local-postgres';
import pg from 'pg';
import { eventually, pushRun, runPath, scoreLines, startSystem, untilFinal } from './support/system.ts';

const MAIN = path.join(import.meta.dirname, '..', 'bin', 'ingest-api.js');
const PASSWORD = 'geheim-4711';

/** Not for one role in one database, or the server would write megabytes of log. */
const LEFT_ALONE =
  /^(debug_|trace_|application_name$|client_min_messages$|transaction_(isolation|read_only|deferrable)$)/;
/** Values that a role may well have; those of switches and choices are turned over below. */
const UNUSUAL: Readonly<Record<string, string>> = {
  statement_timeout: '400ms',
  lock_timeout: '1ms',
  idle_in_transaction_session_timeout: '400ms',
  idle_session_timeout: '400ms',
  transaction_timeout: '400ms',
  datestyle: 'German, DMY',
  timezone: 'Asia/Kolkata',
  search_path: 'public, pg_temp',
  extra_float_digits: '-15',
  client_encoding: 'LATIN1',
  restrict_nonsystem_relation_kind: 'view',
  work_mem: '64kB',
  default_statistics_target: '1',
  vacuum_cost_delay: '1ms',
  lc_numeric: 'C',
  tcp_user_timeout: '0',
};

/** A member of the two roles, for whom every setting that a login may have is something else than usual. */
async function createHostileLogin(admin: pg.Client, login: string): Promise<number> {
  await admin.query(`CREATE ROLE ${login} LOGIN PASSWORD '${PASSWORD}' IN ROLE ingest_api, ingest_loader`);
  const { rows } = await admin.query<{ name: string; wanted: string }>(`
    SELECT lower(name) AS name, CASE vartype WHEN 'bool' THEN CASE setting WHEN 'on' THEN 'off' ELSE 'on' END
      ELSE (SELECT v FROM unnest(enumvals) v WHERE v <> setting ORDER BY v LIMIT 1) END AS wanted
    FROM pg_settings
    WHERE context = 'user' AND vartype IN ('bool', 'enum') AND (vartype = 'bool' OR cardinality(enumvals) > 1)`);
  const known = new Set(
    (await admin.query('SELECT lower(name) AS name FROM pg_settings')).rows.map((row) => row.name),
  );
  const wanted = { ...Object.fromEntries(rows.map((row) => [row.name, row.wanted])), ...UNUSUAL };
  const names = Object.keys(wanted).filter((name) => !LEFT_ALONE.test(name) && known.has(name));
  for (const name of names) {
    const value = wanted[name] ?? '';
    const sql = name === 'search_path' ? value : pg.escapeLiteral(value);
    await admin.query(`ALTER ROLE ${login} SET ${name} = ${sql}`);
  }
  return names.length;
}

function withLogin(databaseUrl: string, login: string): string {
  const url = new URL(databaseUrl);
  url.username = login;
  url.password = PASSWORD;
  return url.href;
}

async function runCli(databaseUrl: string, ...args: string[]) {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'ingest-cli-'));
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, DATABASE_URL: databaseUrl, INGEST_DATA_DIR: dataDir, INGEST_PORT: '0' },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  const [code] = await once(child, 'close');
  await rm(dataDir, { recursive: true });
  return { code, output };
}

describe('sessions of the database', () => {
  it('mean the same, whatever settings the login, the address or the environment has', async () => {
    const login = `hostile_${process.pid}`;
    let admin: pg.Client | undefined;
    let settings = 0;
    let hostileUrl = '';
    const system = await startSystem(async (databaseUrl) => {
      admin = new pg.Client({ connectionString: new URL('/postgres', databaseUrl).href }); // outlives the database
      await admin.connect();
      settings = await createHostileLogin(admin, login);
      const url = new URL(withLogin(databaseUrl, login));
      url.searchParams.set('options', '-c default_transaction_read_only=on -c timezone=Asia/Tokyo');
      url.searchParams.set('application_name', 'mine');
      hostileUrl = url.href;
      return { databaseUrl: hostileUrl };
    });
    try {
      expect(settings).to.be.greaterThan(60);
      const loader = system.startLoader({ databaseUrl: hostileUrl });
      await eventually(
        async () => (await (await system.request('GET', '/v1/status')).json()) as { loaders: number },
        ({ loaders }) => loaders === 1, // counted by application_name
      );
      for (const run of ['2026-01', '2026-02', '2026-03']) {
        const line = `{"pk":"a\\\\b","score":0.30000000000000004,"at":"${run}"}\n`;
        await pushRun(system, 'm', run, [{ name: 'a.jsonl', content: scoreLines(500) + line }]);
        expect((await untilFinal(system, 'm', run)).state, run).to.equal('published');
      }
      await pushRun(system, 'm', '2026-04', [{ name: 'a.jsonl', content: scoreLines(3) + scoreLines(2) }]);
      const failed = await untilFinal(system, 'm', '2026-04');
      expect([failed.state, failed.error?.code]).to.deep.equal(['failed', 'duplicate_keys']);
      const answer = await system.request('GET', runPath('m', '2026-03'));
      expect(((await answer.json()) as { as_of: string }).as_of).to.equal('2026-03-01T00:00:00.000Z');
      const rows = await system.query(`
        SELECT count(*)::int AS rows, max(run) AS run, max(score) FILTER (WHERE pk LIKE 'a%') AS exact,
               max(pk) FILTER (WHERE pk LIKE 'a%') AS key FROM scores.m`);
      expect(rows).to.deep.equal([{ rows: 501, run: '2026-03', exact: 0.30000000000000004, key: 'a\\b' }]);
      // Longer than the login's time-outs for idle sessions: a session of ours is not ended by them.
      const client = await connect({
        databaseUrl: hostileUrl,
        role: 'ingest_loader',
        applicationName: 'test',
      });
      await admin?.query('SELECT pg_sleep(0.6)');
      const shown = await client.query(
        `SELECT name, setting FROM pg_settings WHERE name = ANY ($1) ORDER BY name COLLATE "C"`,
        [
          [
            'DateStyle',
            'TimeZone',
            'default_transaction_read_only',
            'search_path',
            'synchronous_commit',
            'lock_timeout',
          ],
        ],
      );
      await client.end();
      expect(shown.rows.map(({ name, setting }) => `${name}=${setting}`)).to.deep.equal([
        'DateStyle=ISO, YMD',
        'TimeZone=UTC',
        'default_transaction_read_only=off',
        'lock_timeout=0',
        'search_path="pg_catalog"',
        'synchronous_commit=local', // an operator's choice, which only 'off' is not
      ]);
      await loader.stop();
    } finally {
      await system.stop();
      await endAndDrop(admin, login);
    }
  });

  it('name the login and the role that it lacks, and end serve, load and token with 2', async () => {
    const database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    const admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    const login = `stranger_${process.pid}`;
    await admin.query(`CREATE ROLE ${login} LOGIN PASSWORD '${PASSWORD}'`);
    try {
      const url = withLogin(database.url, login);
      for (const [args, role] of [
        [['serve'], 'ingest_api'],
        [['load'], 'ingest_loader'],
        [['token', 'list'], 'ingest_api'],
      ] as const) {
        const { code, output } = await runCli(url, ...args);
        expect(code, output).to.equal(2);
        expect(output).to.contain(`The login "${login}" is not a member of the role ${role}.`);
        expect(output).to.contain(`GRANT ${role} TO "${login}"`).and.not.contain(PASSWORD);
      }
    } finally {
      await endAndDrop(admin, login);
      await database.drop();
    }
  });

  it('are not begun with an address that cannot be read: 2, the variable, the fault, no password', async () => {
    for (const args of [['serve'], ['load'], ['migrate'], ['token', 'list']]) {
      const { code, output } = await runCli(`postgres://u:${PASSWORD}@h:port/db`, ...args);
      expect(code, output).to.equal(2);
      expect(output).to.contain('DATABASE_URL: It cannot be read as postgres://').and.not.contain(PASSWORD);
    }
  });
});

async function endAndDrop(admin: pg.Client | undefined, login: string): Promise<void> {
  await admin?.query(`DROP OWNED BY ${login}; DROP ROLE ${login}`);
  await admin?.end();
}
