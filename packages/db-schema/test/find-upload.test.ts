import { expect } from 'chai';
import { createTestDatabase } from 'local-postgres';
import pg from 'pg';
import { migrateToLatest } from '../src/index.ts';

const CALLS_UNTIL_A_PLAN_IS_KEPT = 6;

describe('ingest.find_upload', () => {
  it('reads by index, although its plan was made while the tables were known to be empty', async () => {
    const database = await createTestDatabase();
    await migrateToLatest(database.url);
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    const find = async (number: number) => {
      const id = number.toString(16).padStart(32, '0');
      return (await client.query('SELECT * FROM ingest.find_upload($1)', [id])).rows;
    };
    await client.query('VACUUM ANALYZE ingest.upload, ingest.run_file, ingest.run_revision');
    for (let call = 0; call < CALLS_UNTIL_A_PLAN_IS_KEPT; call += 1) expect(await find(1)).to.be.empty;

    await client.query('BEGIN'); // shows at once what this transaction has read
    await client.query(`
      INSERT INTO ingest.model (name) VALUES ('churn');
      INSERT INTO ingest.run (model, run_key) VALUES ('churn', 'r');
      INSERT INTO ingest.run_revision (model, run_key, revision, as_of, declared_by, declared_at, state)
      SELECT 'churn', 'r', n, now(), 'test', timestamptz '2026-11-01Z' + n * interval '1 s', CASE WHEN n > 990 THEN 'receiving' ELSE 'cancelled' END
      FROM generate_series(1, 1000) n;
      INSERT INTO ingest.upload (upload_id, model, bytes, created_by)
      SELECT lpad(to_hex(n), 32, '0'), 'churn', n, 'test' FROM generate_series(1, 2000) n;
      INSERT INTO ingest.run_file (revision_id, name, bytes, upload_id)
      SELECT r.revision_id, n || '.jsonl', n, lpad(to_hex(n), 32, '0')
      FROM generate_series(1, 2000) n, ingest.run_revision r WHERE r.revision IN (500, 995, 1000)`);
    const rowsRead = async () => {
      const { rows } = await client.query<{ table: string; rows: number }>(
        `SELECT relname AS table, (seq_tup_read + coalesce(idx_tup_fetch, 0))::int AS rows FROM pg_stat_xact_user_tables
         WHERE schemaname = 'ingest'`,
      );
      return new Map(rows.map((it) => [it.table, it.rows]));
    };
    const before = await rowsRead();
    const [found, ...others] = await find(1234);
    const after = await rowsRead();
    const read = (table: string) => (after.get(table) ?? 0) - (before.get(table) ?? 0);
    expect(read('upload')).to.equal(1);
    expect(read('run_file')).to.equal(3);
    expect(read('run_revision')).to.be.at.most(3);
    expect(others).to.be.empty;
    expect(found.bytes).to.equal('1234');
    expect(found.awaited_by, 'the cancelled revision does not wait').to.have.length(2);
    expect(found.awaited_since.toISOString()).to.equal('2026-11-01T00:16:40.000Z');
    await client.query('ROLLBACK');
    await client.end();
    await database.drop();
  });
});
