import { expect } from 'chai';
import pg from 'pg';
import { createTestDatabase } from '../src/index.ts';

describe('createTestDatabase', () => {
  it('prepares the template once, and gives every caller a clone of its own', async () => {
    let prepared = 0;
    const recipe = {
      name: 'with-a-table',
      async migrate(url: string) {
        prepared += 1;
        await query(url, 'CREATE TABLE seen (n int)');
      },
    };
    const [one, two] = await Promise.all([createTestDatabase(recipe), createTestDatabase(recipe)]);
    await query(one.url, 'INSERT INTO seen VALUES (1)');
    expect(await query(two.url, 'SELECT n FROM seen')).to.deep.equal([]);
    expect(prepared).to.equal(1);
    await Promise.all([one.drop(), two.drop()]);
  });

  it('drops the database, and says who left a connection open', async () => {
    const database = await createTestDatabase();
    const client = new pg.Client({ connectionString: database.url, application_name: 'forgetful' });
    client.on('error', () => undefined);
    await client.connect();
    await client.query('SELECT 1 AS left_open');
    const error = await database.drop().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(String(error)).to.match(/left 1 connection.*\n.*"forgetful".*SELECT 1 AS left_open/);
    const refused = await query(database.url, 'SELECT 1').catch((reason: unknown) => reason);
    expect(String(refused)).to.contain('does not exist');
  });
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}
