import { expect } from 'chai';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { connect, migrateToLatest } from '../src/index.ts';

/** A login as an operator creates it: a member of one role only. */
const ROLES = ['ingest_api', 'ingest_loader', 'score_reader', 'score_history_reader'] as const;
type Role = (typeof ROLES)[number];

const DENIED = '42501';

/** What each role may do: the test tries each statement as each role. */
const STATEMENTS: readonly { readonly sql: string; readonly allowed: readonly Role[] }[] = [
  { sql: 'SELECT * FROM scores.churn', allowed: ['score_reader'] },
  { sql: 'SELECT * FROM scores_typed.churn', allowed: ['score_reader'] },
  { sql: 'CREATE VIEW scores_typed.mine AS SELECT 1', allowed: [] },
  { sql: `SELECT ingest.typed_columns('{}')`, allowed: [] },
  { sql: `SELECT * FROM ingest.find_upload('')`, allowed: ['ingest_api'] },
  { sql: 'SELECT * FROM scores_history.churn', allowed: ['score_history_reader'] },
  { sql: 'SELECT * FROM scores_info.models', allowed: ROLES },
  { sql: 'LISTEN scores_published', allowed: ROLES },
  { sql: 'SELECT * FROM run_data.churn', allowed: ['ingest_loader'] },
  { sql: 'CREATE TABLE run_data.mine (x int)', allowed: ['ingest_loader'] },
  { sql: 'CREATE VIEW scores.mine AS SELECT 1', allowed: [] },
  { sql: 'CREATE VIEW scores_history.mine AS SELECT 1', allowed: [] },
  { sql: 'CREATE VIEW scores_info.mine AS SELECT 1', allowed: [] },
  { sql: `SELECT ingest.list_history('churn')`, allowed: ['ingest_loader'] },
  { sql: 'CREATE FUNCTION scores.mine() RETURNS int LANGUAGE sql AS $$SELECT 1$$', allowed: [] },
  {
    sql: 'CREATE OR REPLACE FUNCTION ingest.attach_revision(id integer) RETURNS void LANGUAGE sql AS $$$$',
    allowed: [],
  },
  { sql: 'DELETE FROM run_data.churn', allowed: ['ingest_loader'] },
  { sql: 'DROP VIEW scores.churn', allowed: [] },
  { sql: 'SELECT * FROM ingest.kysely_migration', allowed: [] },
  { sql: 'DELETE FROM ingest.kysely_migration', allowed: [] },
  { sql: 'LOCK TABLE ingest.kysely_migration_lock', allowed: [] },
  { sql: `INSERT INTO ingest.audit_event (at, actor, action) VALUES ('2000-01-01', 'x', 'y')`, allowed: [] },
  {
    sql: `INSERT INTO ingest.audit_event (event_id, actor, action) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 'y')`,
    allowed: [],
  },
  { sql: 'SELECT * FROM ingest.session', allowed: ['ingest_api'] },
  { sql: 'UPDATE ingest.session SET expires_at = now()', allowed: [] },
  { sql: 'DROP SCHEMA scores CASCADE', allowed: [] },

  { sql: 'SELECT * FROM ingest.api_token', allowed: ['ingest_api'] },
  { sql: `UPDATE ingest.api_token SET scopes = '{admin}'`, allowed: ['ingest_api'] },
  { sql: 'SELECT * FROM ingest.run_revision', allowed: ['ingest_api', 'ingest_loader'] },
  {
    sql: `INSERT INTO ingest.audit_event (actor, action) VALUES ('x', 'y')`,
    allowed: ['ingest_api', 'ingest_loader'],
  },
  { sql: `UPDATE ingest.audit_event SET actor = 'somebody else'`, allowed: [] },
  { sql: 'DELETE FROM ingest.audit_event', allowed: [] },
  { sql: 'TRUNCATE ingest.audit_event', allowed: [] },
  { sql: 'DELETE FROM ingest.publication', allowed: ['ingest_api'] },
  { sql: 'CREATE TABLE ingest.mine (x int)', allowed: [] },
  { sql: 'ALTER TABLE ingest.model ADD COLUMN mine int', allowed: [] },
  { sql: 'CREATE TABLE public.mine (x int)', allowed: [] },
  { sql: 'CREATE SCHEMA mine', allowed: [] },

  { sql: `SELECT pg_read_file('/etc/passwd')`, allowed: [] },
  { sql: `COPY (SELECT 1) TO PROGRAM 'true'`, allowed: [] },
  { sql: `COPY (SELECT 1) TO '/tmp/mine'`, allowed: [] },
  { sql: 'CREATE ROLE mine', allowed: [] },
  { sql: 'CREATE EXTENSION dblink', allowed: [] },
  { sql: 'CREATE FUNCTION run_data.mine() RETURNS int LANGUAGE c AS $$x$$, $$y$$', allowed: [] },
  { sql: 'SET log_statement = none', allowed: [] },
  { sql: 'SET ROLE postgres', allowed: [] },
  { sql: 'SET SESSION AUTHORIZATION postgres', allowed: [] },
  { sql: 'SET ROLE ingest_loader', allowed: ['ingest_loader'] },
  { sql: 'SET ROLE ingest_api', allowed: ['ingest_api'] },
];

describe('least privilege', () => {
  let database: TestDatabase;
  let admin: pg.Client;
  const loginOf = (role: Role) => `${role}_login_${process.pid}`;

  before(async () => {
    database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    await admin.query('REVOKE CREATE ON SCHEMA public FROM PUBLIC'); // what `migrate` advises: before 15 every login may
    for (const role of ROLES)
      await admin.query(`CREATE ROLE ${loginOf(role)} LOGIN PASSWORD 'x' IN ROLE ${role}`);
    await admin.query(
      `INSERT INTO ingest.model (name, contract) VALUES ('churn', '{"attributes":[{"name":"decile","type":"integer"}]}')`,
    );
  });
  after(async () => {
    for (const role of ROLES) await admin.query(`DROP ROLE ${loginOf(role)}`);
    await admin.end();
    await database.drop();
  });

  function urlOf(role: Role): string {
    const url = new URL(database.url);
    url.username = loginOf(role);
    url.password = 'x';
    return url.href;
  }

  async function asRole<T>(role: Role, work: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = new pg.Client({ connectionString: urlOf(role) });
    await client.connect();
    try {
      return await work(client);
    } finally {
      await client.end();
    }
  }

  for (const role of ROLES) {
    it(`lets ${role} do what its work needs, and refuses the rest`, () =>
      asRole(role, async (client) => {
        for (const { sql, allowed } of STATEMENTS) {
          await client.query('BEGIN');
          const state = await client.query(sql).then(
            () => 'done',
            (error: pg.DatabaseError) => error.code,
          );
          await client.query('ROLLBACK');
          expect(state, sql).to.equal(allowed.includes(role) ? 'done' : DENIED);
        }
      }));
  }

  it('gives no role a power over the server', async () => {
    const { rows } = await admin.query(
      `SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)
       AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolcanlogin)`,
      [ROLES],
    );
    expect(rows).to.deep.equal([]);
  });

  it('fixes the search_path, so that no other schema can shadow ours', async () => {
    for (const role of ['ingest_api', 'ingest_loader'] as const) {
      const client = await connect({ databaseUrl: urlOf(role), role, applicationName: 'test' });
      const { rows } = await client.query('SHOW search_path');
      await client.end();
      expect(rows, role).to.deep.equal([{ search_path: 'pg_catalog' }]);
    }
  });
});
