import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { networkInterfaces, tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { connect, migrateToLatest, UnusableDatabase } from 'db-schema';
import { type RunningPostgres, startPostgres } from 'local-postgres';
import pg from 'pg';
import { type Certificates, makeCertificates } from './support/certificates.ts';
import { pushRun, runPath, scoreLines, startSystem, untilFinal } from './support/system.ts';

const PASSWORD = 'geheim-0815';

/** Each is set for the database or for the login, before `migrate`. Time-outs are shorter than a push and a load. */
const SETTINGS: Readonly<Record<string, string>> = {
  statement_timeout: '1ms',
  lock_timeout: '1ms',
  idle_in_transaction_session_timeout: '300ms',
  idle_session_timeout: '300ms',
  transaction_timeout: '300ms',
  row_security: 'off',
  standard_conforming_strings: 'off',
  client_encoding: 'LATIN1',
  default_transaction_isolation: 'serializable',
  default_transaction_read_only: 'on',
  default_transaction_deferrable: 'on',
  datestyle: 'SQL, DMY',
  timezone: 'Asia/Kolkata',
  search_path: 'ingest, public',
  synchronous_commit: 'off',
  default_tablespace: 'fast',
  'default_tablespace ': 'pg_default', // no partitioned table may name the tablespace of its database
};

/** What a server, a database or a login of another team may be. `sql` runs as the superuser, in the database. */
interface Case {
  readonly name: string;
  readonly sql?: (database: string) => string;
  readonly login?: string;
  readonly url?: (url: URL) => void;
}

describe('on a server of another team', function () {
  this.timeout(240_000);
  let server: RunningPostgres;
  let admin: pg.Client;
  let certificates: Certificates;
  let socketDir: string;
  let databases = 0;
  const hasIpv6 = Object.values(networkInterfaces()).some((them) =>
    them?.some(({ address }) => address === '::1'),
  );

  before(async () => {
    certificates = await makeCertificates();
    socketDir = await mkdtemp(path.join(tmpdir(), 'pg-'));
    await chmod(socketDir, 0o777); // the server runs as another user when this process is root
    server = await startPostgres({
      dataDir: await mkdtemp(path.join(tmpdir(), 'ingest-others-')),
      temporary: true,
      settings: {
        fsync: 'off',
        wal_level: 'logical',
        listen_addresses: hasIpv6 ? '127.0.0.1,::1' : '127.0.0.1',
        unix_socket_directories: socketDir,
        ssl: 'on',
        ssl_cert_file: certificates.server.cert,
        ssl_key_file: certificates.server.key,
      },
    });
    admin = new pg.Client({ connectionString: server.superuserUrl });
    await admin.connect();
    // The first database is migrated by `team`, which creates the roles. `others` was given them by somebody else.
    for (const login of ['team CREATEROLE', 'others', 'strangers'])
      await admin.query(`CREATE ROLE ${login} LOGIN PASSWORD '${PASSWORD}'`);
    await admin.query('SET allow_in_place_tablespaces = on');
    await admin.query(`CREATE TABLESPACE fast LOCATION ''`);
  });
  after(async () => {
    await admin?.end();
    await server?.stop();
    for (const folder of [certificates?.folder, socketDir])
      if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  });

  /** The address of a new database, as its owner. */
  async function databaseFor({ sql, login = 'team', url: change }: Case): Promise<string> {
    databases += 1;
    const name = `db_${databases}`;
    await admin.query(`CREATE DATABASE ${name} OWNER ${login}`);
    const url = new URL(`/${name}`, server.superuserUrl);
    if (sql !== undefined) {
      const client = new pg.Client({ connectionString: url.href });
      await client.connect();
      await client.query(sql(name));
      await client.end();
    }
    url.username = login;
    url.password = PASSWORD;
    change?.(url);
    return url.href;
  }

  /** migrate, serve, load, publish and roll back, all as the owner of the database, who is not a superuser. */
  async function wholePath(of: Case): Promise<void> {
    const url = await databaseFor(of);
    expect((await migrateToLatest(url)).applied).to.not.have.length(0);
    const system = await startSystem({}, { url, drop: async () => {} });
    try {
      system.startLoader();
      for (const run of ['2026-01', '2026-02']) {
        await pushRun(system, 'm', run, [
          { name: 'a.jsonl', content: `${scoreLines(99)}{"pk":"ä\\\\","score":1}` },
        ]);
        const ended = await untilFinal(system, 'm', run, 20_000);
        expect([ended.state, ended.load?.attempt]).to.deep.equal(['published', 1]);
      }
      await expectShown(url, '2026-02');
      const operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
      const back = await system.request('PUT', '/v1/models/m/current', {
        json: { run: '2026-01', reason: 'back' },
        token: operator,
      });
      expect(back.status, await back.text()).to.equal(200);
      await expectShown(url, '2026-01');
      const seen = await system.request('GET', runPath('m', '2026-01'));
      expect(await seen.json()).to.include({ as_of: '2026-01-01T00:00:00.000Z' });
      const again = await migrateToLatest(url);
      expect([again.applied, again.accessChanged]).to.deep.equal([[], []]);
    } finally {
      await system.stop();
    }
  }

  async function expectShown(url: string, run: string): Promise<void> {
    const reader = new pg.Client({
      connectionString: new URL(new URL(url).pathname, server.superuserUrl).href,
    });
    await reader.connect();
    const { rows } = await reader.query(
      `SELECT count(*)::int AS rows, min(run) AS run, bool_or(pk = U&'\\00E4\\005C') AS key FROM scores.m`,
    );
    await reader.end();
    expect(rows).to.deep.equal([{ rows: 100, run, key: true }]);
  }

  /** Several at a time, because most of it is waiting. Every failure names its case. */
  async function all(cases: readonly Case[]): Promise<void> {
    const left = [...cases];
    const failures: string[] = [];
    const work = async () => {
      for (let it = left.shift(); it !== undefined; it = left.shift()) {
        const { name } = it;
        await wholePath(it).catch((error: Error) => failures.push(`${name}: ${error.stack}`));
      }
    };
    await Promise.all([work(), work(), work()]);
    expect(failures.join('\n')).to.equal('');
  }

  it('that gives its owner no more than CREATEROLE, everything works, and for an owner without it too', async () => {
    await wholePath({ name: 'CREATEROLE' });
    await admin.query('GRANT ingest_api, ingest_loader, score_reader, score_history_reader TO others');
    await wholePath({ name: 'roles of somebody else', login: 'others' });
  });

  it('with roles that somebody else made and gave to nobody, migrate asks for them', async () => {
    const url = await databaseFor({ name: 'strangers', login: 'strangers' });
    const error = await migrateToLatest(url).catch((reason: Error) => reason);
    expect(String(error))
      .to.contain('ingest_api, ingest_loader, score_reader, score_history_reader')
      .and.contain('Nothing was changed');
    const statements = /: (GRANT .*)$/.exec(String(error))?.[1] ?? '';
    expect(statements).to.match(/ingest_api.*ingest_loader.*score_history_reader.*score_reader/);
    await admin.query(statements);
    expect((await migrateToLatest(url)).applied).to.not.have.length(0);
  });

  it('each setting of a login or a database changes nothing', async () => {
    await admin.query('GRANT CREATE ON TABLESPACE fast TO team, ingest_loader');
    const { rows } = await admin.query<{ name: string }>('SELECT lower(name) AS name FROM pg_settings');
    const known = new Set(rows.map(({ name }) => name));
    const cases = Object.entries(SETTINGS)
      .map(([name, value], index) => {
        const assignment = `SET ${name} = ${name === 'search_path' ? value : pg.escapeLiteral(value)}`;
        const target = (database: string) =>
          index % 2 === 0 ? `ROLE team IN DATABASE ${database}` : `DATABASE ${database}`;
        return { name, sql: (database: string) => `ALTER ${target(database)} ${assignment}` };
      })
      .filter(({ name }) => known.has(name.trim()));
    await all(cases);
    await admin.query('REVOKE CREATE ON TABLESPACE fast FROM team, ingest_loader');
  });

  it('with a default_tablespace that a role may not use, migrate and load end at once and say what to grant', async () => {
    const url = await databaseFor({
      name: 'tablespace',
      sql: (database) => `ALTER DATABASE ${database} SET default_tablespace = fast`,
    });
    const refusal = async (work: Promise<unknown>) => {
      const error = await work.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).to.be.instanceOf(UnusableDatabase);
      return String(error);
    };
    expect(await refusal(migrateToLatest(url))).to.contain('GRANT CREATE ON TABLESPACE "fast" TO "team"');
    await admin.query('GRANT CREATE ON TABLESPACE fast TO team');
    await migrateToLatest(url);
    const loader = connect({ databaseUrl: url, role: 'ingest_loader', applicationName: 'test' });
    expect(await refusal(loader)).to.contain('GRANT CREATE ON TABLESPACE "fast" TO "ingest_loader"');
  });

  it('with wal_level = logical and a publication of all tables', () =>
    wholePath({ name: 'publication', sql: () => 'CREATE PUBLICATION everything FOR ALL TABLES' }));

  it('by TLS with a private authority, by a Unix socket and by IPv6', async () => {
    if (!hasIpv6) console.log('      without IPv6: this machine has no address ::1');
    await all([
      {
        name: 'TLS',
        url: (url) => {
          url.search = `?sslmode=verify-full&sslrootcert=${certificates.ca}`;
        },
      },
      {
        name: 'socket',
        url: (url) => {
          url.search = `?host=${socketDir}&port=${url.port}`;
        },
      },
      ...(hasIpv6
        ? [
            {
              name: 'IPv6',
              url: (url: URL) => {
                url.hostname = '[::1]';
              },
            },
          ]
        : []),
    ]);
  });
});
