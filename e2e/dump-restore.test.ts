import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import pg from 'pg';
import { runProgram, startProgram } from './support/programs.ts';
import {
  type OwnPostgres,
  startOwnPostgres,
  startTestSystem,
  type TestSystem,
} from './support/test-system.ts';

const run = promisify(execFile);
const OWNER = 'scores_owner';
const PASSWORD = 'owner-password';

/** Where the client tools of PostgreSQL 18 are: PG_BIN, or the path. */
const tool = (name: string) => (process.env.PG_BIN === undefined ? name : join(process.env.PG_BIN, name));

async function whyNot(): Promise<string | undefined> {
  const version = await run(tool('pg_dump'), ['--version']).then(
    ({ stdout }) => Number(/\d+/.exec(stdout)?.[0]),
    () => undefined,
  );
  if (version === undefined) return 'there is no pg_dump here';
  if (version < 18)
    return `pg_dump is of PostgreSQL ${version}, and 18 is needed; PG_BIN may name its folder`;
  return undefined;
}

/** A real pg_dump -Fc, and pg_restore into a new server: what is restored without roles is repaired by `migrate`. */
describe('a dump that is restored into a new server', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let dump: string;
  let dir: string;
  const servers: OwnPostgres[] = [];

  before(async function () {
    const reason = await whyNot();
    if (reason !== undefined) {
      console.log(`      skipped: ${reason}`);
      this.skip();
    }
    dir = await mkdtemp(join(tmpdir(), 'score-ingest-dump-'));
    system = await startTestSystem();
    const service = await system.startService();
    const loader = system.startLoader();
    expect((await push(service.url, 'churn', '2026-10')).code).to.equal(0);
    // A load that was under way when the dump was made: its transaction's id means nothing, or the future, over there.
    await system.query(
      `INSERT INTO ingest.load_attempt (revision_id, attempt, worker, transaction_id)
       SELECT revision_id, 99, 'gone', '9000000000'::xid8 FROM ingest.run_revision LIMIT 1`,
    );
    await service.kill('SIGTERM');
    await loader.kill('SIGTERM');
    dump = join(dir, 'scores.dump');
    await run(tool('pg_dump'), ['-Fc', '-f', dump, system.databaseUrl]);
  });
  after(async () => {
    await system?.stop();
    for (const server of servers) await server.stop();
    if (dir !== undefined) await rm(dir, { recursive: true, force: true });
  });

  async function push(url: string, model: string, key: string) {
    const folder = join(dir, `${model}-${key}`);
    await mkdir(join(folder, model, key), { recursive: true });
    await writeFile(join(folder, model, key, 'a.jsonl'), `{"pk":"1","score":1}\n{"pk":"2","score":2}\n`);
    return system.runUploader(url, ['push', folder, '--json']);
  }

  async function newServer(): Promise<OwnPostgres> {
    const server = await startOwnPostgres();
    servers.push(server);
    return server;
  }

  async function ask(url: string, ...statements: string[]) {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      let rows: unknown[] = [];
      for (const statement of statements) rows = (await client.query(statement)).rows;
      return rows;
    } finally {
      await client.end();
    }
  }

  const inDatabase = (server: OwnPostgres, database: string, user?: { name: string; password: string }) => {
    const url = new URL(server.url);
    url.pathname = database;
    if (user !== undefined) {
      url.username = user.name;
      url.password = user.password;
    }
    return url.href;
  };

  /** Whatever pg_restore says of roles that are not there: `migrate` is what must put it right. */
  async function restore(url: string, ...flags: string[]): Promise<void> {
    await run(tool('pg_restore'), [...flags, '-d', url, dump]).catch((error: { stderr?: string }) => {
      expect(error.stderr).to.match(/role "\w+" does not exist|permission denied|must be/);
    });
  }

  async function expectWorking(server: OwnPostgres, database: string, url: string): Promise<void> {
    const migrated = await runProgram('ingest-api', ['migrate'], { DATABASE_URL: url });
    expect(migrated.code, migrated.stderr).to.equal(0);
    const again = await runProgram('ingest-api', ['migrate'], { DATABASE_URL: url });
    expect(again.stdout).to.contain('nothing to do');
    const uploads = join(dir, `uploads-${database}`);
    await cp(join(system.workDir, 'uploads'), uploads, { recursive: true });
    const env = { DATABASE_URL: url, INGEST_DATA_DIR: uploads };
    const service = await system.startService({ env });
    const loader = startProgram('ingest-api', ['load'], env);
    try {
      const pushed = await push(service.url, 'churn', '2026-11');
      expect(pushed.code, pushed.stderr).to.equal(0);
      expect(JSON.parse(pushed.stdout)).to.include({ result: 'published' });
      const first = await push(service.url, 'uplift', '2026-11');
      expect(first.code, first.stderr).to.equal(0);
      const status = await system.runUploader(service.url, ['status']);
      expect(status.stdout).to.match(/2026-11 +1 +published/);
    } finally {
      await service.kill('SIGTERM');
      await loader.kill('SIGTERM');
    }
    const reader = `reader_of_${database}`;
    await ask(inDatabase(server, database), `CREATE ROLE ${reader} LOGIN PASSWORD 'x' IN ROLE score_reader`);
    const asReader = inDatabase(server, database, { name: reader, password: 'x' });
    expect(
      await ask(asReader, 'SELECT run, count(*)::int AS rows FROM scores.churn GROUP BY run'),
    ).to.deep.equal([{ run: '2026-11', rows: 2 }]);
    const secret = await ask(asReader, 'SELECT * FROM run_data.churn').then(
      () => 'readable',
      (error: pg.DatabaseError) => error.code,
    );
    expect(secret).to.equal('42501');
  }

  it('as superuser works after migrate, without the roles and with them', async () => {
    const server = await newServer();
    for (const database of ['without_roles', 'with_roles']) {
      await ask(server.url, `CREATE DATABASE ${database} ENCODING 'UTF8' TEMPLATE template0`);
      const url = inDatabase(server, database);
      await restore(url);
      await expectWorking(server, database, url);
    }
  });

  it('as an owner who is no superuser works after migrate, without the roles and with them', async () => {
    for (const rolesFirst of [false, true]) {
      const server = await newServer();
      await ask(server.url, `CREATE ROLE ${OWNER} LOGIN CREATEROLE PASSWORD '${PASSWORD}'`);
      if (rolesFirst) {
        for (const role of ['ingest_api', 'ingest_loader', 'score_reader'])
          await ask(server.url, `CREATE ROLE ${role} NOLOGIN`, `GRANT ${role} TO ${OWNER}`);
      }
      const database = rolesFirst ? 'owned_with_roles' : 'owned';
      await ask(server.url, `CREATE DATABASE ${database} OWNER ${OWNER} ENCODING 'UTF8' TEMPLATE template0`);
      const url = inDatabase(server, database, { name: OWNER, password: PASSWORD });
      await restore(url, '--no-owner', '--no-acl');
      await expectWorking(server, database, url);
    }
  });
});
