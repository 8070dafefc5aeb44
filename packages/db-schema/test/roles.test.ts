import { expect } from 'chai';
import { createTestDatabase } from 'local-postgres';
import pg from 'pg';
import { connect, migrateToLatest } from '../src/index.ts';

describe('the roles', () => {
  it('can be worked with by a database owner who is no superuser', async () => {
    const database = await createTestDatabase();
    const admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    const owner = `owner_${process.pid}`;
    // Roles belong to the server: those of other tests' databases would hide what is tried here.
    await admin.query(`CREATE ROLE ${owner} LOGIN CREATEROLE PASSWORD 'secret'`);
    await admin
      .query(`GRANT ingest_api, ingest_loader, score_reader TO ${owner} WITH ADMIN OPTION`)
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
});
