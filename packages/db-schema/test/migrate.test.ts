import { expect } from 'chai';
import { createTestDatabase } from 'local-postgres';
import pg from 'pg';
import { migrateToLatest } from '../src/index.ts';

describe('migrateToLatest', () => {
  it('can run in several processes at once, and again: it is applied once', async () => {
    const database = await createTestDatabase();
    const reports = await Promise.all([1, 2, 3].map(() => migrateToLatest(database.url)));
    const counts = reports.map(({ applied }) => applied.length).sort();
    expect(counts.slice(0, 2)).to.deep.equal([0, 0]);
    expect(counts[2]).to.be.greaterThan(0);
    const again = await migrateToLatest(database.url);
    expect([again.applied, again.accessChanged]).to.deep.equal([[], []]);
    expect(again.advice.join(), 'and leaves the rights of PUBLIC to the owner of the database').to.contain(
      'REVOKE TEMPORARY',
    );
    await database.drop();
  });

  it('tries again after every collision, however many start at once', async () => {
    for (let round = 0; round < 5; round += 1) {
      const database = await createTestDatabase();
      const reports = await Promise.all(Array.from({ length: 6 }, () => migrateToLatest(database.url)));
      expect(reports.filter(({ applied }) => applied.length > 0)).to.have.length(1);
      await database.drop();
    }
  });

  it('says that a login other than the owner cannot run it', async () => {
    const database = await createTestDatabase();
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    const stranger = `stranger_${process.pid}`;
    await client.query(`CREATE ROLE ${stranger} LOGIN PASSWORD 'x'`);
    const url = Object.assign(new URL(database.url), { username: stranger, password: 'x' }).href;
    for (const isThere of [false, true]) {
      if (isThere) await migrateToLatest(database.url);
      const error = await migrateToLatest(url).then(
        () => undefined,
        (reason: Error) => reason,
      );
      expect(error?.message, String(isThere)).to.match(/must run as the owner of the database/);
    }
    await client.query(`DROP ROLE ${stranger}`);
    await client.end();
    await database.drop();
  });

  it('can run for two databases of one server at once, though roles belong to the server', async () => {
    const databases = await Promise.all([createTestDatabase(), createTestDatabase()]);
    await Promise.all(databases.map(({ url }) => migrateToLatest(url)));
    await Promise.all(databases.map((database) => database.drop()));
  });

  it('refuses a database that cannot store every character', async () => {
    const database = await createTestDatabase();
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    const latin = `latin_${process.pid}`;
    await client.query(
      `CREATE DATABASE ${latin} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`,
    );
    try {
      const url = new URL(database.url);
      url.pathname = latin;
      const error = await migrateToLatest(url.href).then(
        () => undefined,
        (reason: Error) => reason,
      );
      expect(error?.message).to.contain('the encoding LATIN1, and scores need UTF8');
    } finally {
      // The backend of a connection exists for a moment after the connection has ended.
      const isInUse = async () =>
        (await client.query('SELECT FROM pg_stat_activity WHERE datname = $1', [latin])).rows.length > 0;
      for (const deadlineMs = Date.now() + 10_000; (await isInUse()) && Date.now() < deadlineMs; );
      await client.query(`DROP DATABASE ${latin}`);
      await client.end();
      await database.drop();
    }
  });

  it('changes nothing and names the failed step when it fails', async () => {
    const database = await createTestDatabase();
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    await client.query('CREATE SCHEMA run_data');
    const error = await migrateToLatest(database.url).then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.message).to.equal('The migration stopped at 0001-ingest; nothing was changed.');
    expect(String(error?.cause)).to.contain('"run_data" already exists');
    const { rows } = await client.query(`SELECT to_regclass('ingest.model') AS model`);
    expect(rows).to.deep.equal([{ model: null }]);
    await client.end();
    await database.drop();
  });
});
