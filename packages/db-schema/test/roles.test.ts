import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { createTestDatabase, type RunningPostgres, startPostgres } from 'local-postgres';
import pg from 'pg';
import { connect, migrateToLatest } from '../src/index.ts';

describe('the roles', () => {
  it('can be used by a database owner who is not a superuser', async () => {
    const database = await createTestDatabase();
    const admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    const owner = `owner_${process.pid}`;
    // Roles belong to the server: roles from other tests' databases would hide what this test checks.
    await admin.query(`CREATE ROLE ${owner} LOGIN CREATEROLE PASSWORD 'secret'`);
    await admin
      .query(
        `GRANT ingest_api, ingest_loader, score_reader, score_history_reader TO ${owner} WITH ADMIN OPTION`,
      )
      .catch(() => undefined);
    await admin.query(`ALTER DATABASE ${new URL(database.url).pathname.slice(1)} OWNER TO ${owner}`);
    const url = new URL(database.url);
    url.username = owner;
    url.password = 'secret';
    await migrateToLatest(url.href);
    for (const role of ['ingest_api', 'ingest_loader'] as const) {
      const client = await connect({ databaseUrl: url.href, role, applicationName: 'test' });
      expect((await client.query('SELECT current_user AS who')).rows).to.deep.equal([{ who: role }]);
      await client.end();
    }
    await admin.query(`REASSIGN OWNED BY ${owner} TO postgres`);
    await admin.query(`DROP OWNED BY ${owner}`);
    await admin.query(`DROP ROLE ${owner}`);
    await admin.end();
    await database.drop();
  });

  it('let the API read no score and the loader change no token', async () => {
    const database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    const admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    const may = async (role: string, what: string) =>
      (await admin.query(`SELECT ${what.replace('ROLE', `'${role}'`)} AS may`)).rows[0]?.may;
    expect(await may('ingest_api', `has_schema_privilege(ROLE, 'run_data', 'USAGE')`)).to.equal(false);
    expect(await may('ingest_api', `has_schema_privilege(ROLE, 'scores', 'USAGE')`)).to.equal(false);
    expect(await may('ingest_loader', `has_table_privilege(ROLE, 'ingest.api_token', 'SELECT')`)).to.equal(
      false,
    );
    expect(await may('ingest_api', `has_table_privilege(ROLE, 'ingest.audit_event', 'DELETE')`)).to.equal(
      false,
    );
    expect(await may('score_reader', `has_schema_privilege(ROLE, 'ingest', 'USAGE')`)).to.equal(false);
    await admin.end();
    await database.drop();
  });

  // A server of its own: on the shared server the databases of other tests have created the roles.
  let server: RunningPostgres;
  let admin: pg.Client;
  before(async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'ingest-roles-'));
    server = await startPostgres({ dataDir, temporary: true, settings: { fsync: 'off' } });
    admin = new pg.Client({ connectionString: server.superuserUrl });
    await admin.connect();
  });
  after(async () => {
    await admin?.end();
    await server?.stop();
  });

  it('and all else are left out by a migration that fails, at whatever statement', async () => {
    await admin.query(`CREATE DATABASE broken ENCODING 'UTF8' TEMPLATE template0`);
    const url = new URL('/broken', server.superuserUrl).href;
    const broken = new pg.Client({ connectionString: url });
    await broken.connect();
    const state = async () =>
      (
        await broken.query(`
          SELECT (SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles) AS roles,
                 (SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace) AS schemas,
                 (SELECT count(*)::int FROM pg_class WHERE oid >= 16384) AS relations,
                 (SELECT count(*)::int FROM pg_proc WHERE oid >= 16384) AS functions`)
      ).rows[0];
    // A sequence keeps its value when a transaction is rolled back.
    await broken.query(`
      CREATE SEQUENCE statement;
      CREATE FUNCTION break_off() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') <> 'score-ingest migrate' THEN RETURN; END IF;
        IF nextval('public.statement') = current_setting('test.at')::int THEN RAISE 'statement %', tg_tag; END IF;
      END $$;
      CREATE EVENT TRIGGER break_off ON ddl_command_end EXECUTE FUNCTION break_off()`);
    const before = await state();
    /** What the failed statements were. */
    const broke = new Set<string>();
    let isDone = false;
    for (let at = 1; !isDone; at += 9) {
      await broken.query(`ALTER SEQUENCE statement RESTART; ALTER DATABASE broken SET test.at = ${at}`);
      const error = await migrateToLatest(url).then(
        () => undefined,
        (reason: Error) => reason,
      );
      isDone = error === undefined;
      broke.add(/statement ([A-Z]+)/.exec(`${error?.message} ${error?.cause}`)?.[1] ?? 'none');
      if (!isDone) expect(await state(), `statement ${at}`).to.deep.equal(before);
    }
    expect([...broke].join(), 'statements of several kinds, and none').to.match(/CREATE.*none$/);
    expect(broke.size).to.be.greaterThan(2);
    await broken.end();
    await admin.query('DROP DATABASE broken WITH (FORCE)');
    await admin.query('DROP ROLE ingest_api, ingest_loader, score_reader, score_history_reader');
  });

  it('are requested with the statements that create them; objects that a superuser left are handed over', async () => {
    await admin.query(`CREATE ROLE owner LOGIN PASSWORD 'secret'`);
    await admin.query(`CREATE DATABASE scores OWNER owner ENCODING 'UTF8' TEMPLATE template0`);
    const asSuperuser = new URL('/scores', server.superuserUrl).href;
    const asOwner = Object.assign(new URL(asSuperuser), { username: 'owner', password: 'secret' }).href;
    const migrate = (url: string) =>
      migrateToLatest(url).then(
        ({ accessChanged }) => accessChanged,
        (error: Error) => error.message,
      );

    const refused = String(await migrate(asOwner));
    expect(refused)
      .to.contain('ingest_api, ingest_loader, score_reader, score_history_reader')
      .and.contain('Nothing was changed');
    const statements = /: (CREATE ROLE .*)$/.exec(refused)?.[1] ?? '';
    expect(
      (await admin.query(`SELECT FROM pg_roles WHERE rolname ~ '^(ingest_|score_)'`)).rows,
    ).to.have.length(0);
    await admin.query(statements);
    expect(await migrate(asOwner)).to.deep.equal([]);

    const inScores = new pg.Client({ connectionString: asSuperuser });
    await inScores.connect();
    const left = await inScores.query(`SELECT nspname FROM pg_namespace WHERE nspname = 'ingest'`);
    expect(left.rows).to.have.length(1);
    await inScores.query(`
      ALTER SCHEMA run_data OWNER TO postgres; ALTER TABLE ingest.model OWNER TO postgres;
      REVOKE ALL ON ingest.run FROM ingest_api; GRANT SELECT ON ingest.api_token TO score_reader`);
    const foreign = String(await migrate(asOwner));
    expect(foreign).to.contain('belong to postgres').and.contain('it hands them to owner');
    expect(await migrate(asSuperuser)).to.include.members([
      'schema run_data: owner owner instead of postgres',
      'table ingest.model: owner owner instead of postgres',
      'table ingest.run: grants',
      'table ingest.api_token: grants',
    ]);
    expect(await migrate(asOwner)).to.deep.equal([]);
    await inScores.end();
  });
});
