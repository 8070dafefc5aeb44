import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { connect } from 'db-schema';
import { type RunningPostgres, startPostgres } from 'local-postgres';
import pg from 'pg';
import { type Certificates, makeCertificates } from './support/certificates.ts';

const run = promisify(execFile);

describe('TLS to the database', () => {
  let ours: Certificates;
  let others: Certificates;
  let server: RunningPostgres;
  let admin: pg.Client;
  /** The same addresses are given to psql where there is one: it has to come to the same end. */
  let hasPsql: boolean;

  before(async () => {
    [ours, others] = await Promise.all([makeCertificates(), makeCertificates()]);
    const dataDir = await mkdtemp(path.join(tmpdir(), 'ingest-db-tls-'));
    server = await startPostgres({
      dataDir,
      temporary: true,
      settings: {
        fsync: 'off',
        ssl: 'on',
        ssl_cert_file: ours.server.cert,
        ssl_key_file: ours.server.key,
        ssl_ca_file: ours.ca,
      },
    });
    admin = new pg.Client({ connectionString: `${server.superuserUrl}?sslmode=no-verify` });
    await admin.connect();
    await admin.query('CREATE ROLE client LOGIN'); // as the certificate of a client is named
    const rules = path.join(dataDir, 'cluster', 'pg_hba.conf');
    const before = await readFile(rules, 'utf8');
    const hostssl = 'hostssl all client 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n';
    await writeFile(rules, hostssl + before.replaceAll(/^host\s/gm, 'hostssl '));
    await admin.query('SELECT pg_reload_conf()');
    hasPsql = await run('psql', ['--version']).then(
      () => true,
      () => false,
    );
  });
  after(async () => {
    await admin?.end();
    await server?.stop();
    for (const { folder } of [ours, others]) await rm(folder, { recursive: true, force: true });
  });

  function address(query: string, host = '127.0.0.1', user = 'postgres'): string {
    const url = new URL(server.superuserUrl);
    url.hostname = host;
    url.username = user;
    if (user !== 'postgres') url.password = '';
    return `${url.href}?${query}`;
  }

  /** Whether the session is encrypted; the fault, when there is none. */
  async function tryOurs(databaseUrl: string): Promise<boolean | string> {
    try {
      const client = await connect({ databaseUrl, applicationName: 'test' });
      const { rows } = await client.query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()');
      await client.end();
      return rows[0]?.ssl;
    } catch (error) {
      return (error as Error).message;
    }
  }

  const tryPsql = (databaseUrl: string) =>
    run('psql', ['-XAtc', 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()', databaseUrl], {
      env: { ...process.env, HOME: ours.folder, PGCONNECT_TIMEOUT: '10' },
    }).then(
      ({ stdout }) => stdout.trim() === 't',
      () => 'refused',
    );

  it('trusts whom psql trusts with the same sslmode, and no one else', async () => {
    const ca = `sslrootcert=${ours.ca}`;
    const other = `sslrootcert=${others.ca}`;
    const certificate = `sslcert=${ours.client.cert}&sslkey=${ours.client.key}`;
    const foreign = `sslcert=${others.client.cert}&sslkey=${others.client.key}`;
    // The certificate of the server names 127.0.0.1, and no host.
    const cases: readonly (readonly [url: string, outcome: true | RegExp])[] = [
      [address('sslmode=disable'), /no pg_hba.conf entry.*no encryption/],
      [address('sslmode=require'), true],
      [address('sslmode=require', 'localhost'), true],
      [address(`sslmode=require&${ca}`, 'localhost'), true],
      [address(`sslmode=require&${other}`), /certificate/],
      [address(`sslmode=verify-ca&${ca}`), true],
      [address(`sslmode=verify-ca&${ca}`, 'localhost'), true],
      [address(`sslmode=verify-ca&${other}`), /certificate/],
      [address(`sslmode=verify-full&${ca}`), true],
      [address(`sslmode=verify-full&${ca}`, 'localhost'), /does not match certificate/],
      [address(`sslmode=verify-full&${other}`), /certificate/],
      [address('sslmode=verify-full'), /certificate/],
      [address(`sslmode=verify-full&${ca}&${certificate}`, '127.0.0.1', 'client'), true],
      [address(`sslmode=verify-full&${ca}`, '127.0.0.1', 'client'), /certificate/],
      [address(`sslmode=verify-full&${ca}&${foreign}`, '127.0.0.1', 'client'), /./],
    ];
    for (const [url, outcome] of cases) {
      const shown = url.replace(/.*@/, '');
      const found = await tryOurs(url);
      if (outcome === true) expect(found, shown).to.equal(true);
      else expect(found, shown).to.match(outcome);
      if (hasPsql) expect(await tryPsql(url), `psql: ${shown}`).to.equal(outcome === true ? true : 'refused');
    }
  });

  it('without sslmode is not there, and the server says so; psql would try it', async () => {
    expect(await tryOurs(address(''))).to.match(/no encryption/);
  });
});
