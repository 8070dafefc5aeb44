import { Kysely, PostgresDialect } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { createRoles, putAccessRight } from './grants.ts';
import * as ingest from './migrations/0001-ingest.ts';

/** Forward-only, in this order. A migration that has been released is never changed: write the next one. */
const MIGRATIONS: Record<string, Migration> = { '0001-ingest': ingest };

export interface MigrationReport {
  readonly applied: readonly string[];
  readonly alreadyThere: number;
  /** The objects whose owner or grants were not as they should be, and are now. */
  readonly accessChanged: readonly string[];
}

/** Any login can hold the advisory lock that Kysely takes: `migrate` says so after this long, and does not hang. */
const LOCK_TIMEOUT = '30s';

/**
 * Brings the database up to the newest schema, and roles, owners and grants to what they should be: two processes may
 * run it at once, and the second finds nothing to do. The owner of the database must run it, with the right to create
 * schemas, and roles if they are missing.
 *
 * @throws the database's own error, with the name of the migration that met it; before the first step when the
 *   database cannot store every character that a line of scores may hold.
 */
export async function migrateToLatest(databaseUrl: string): Promise<MigrationReport> {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: 1,
    application_name: 'score-ingest migrate',
    connectionTimeoutMillis: 10_000,
    options: `-c lock_timeout=${LOCK_TIMEOUT}`,
  });
  const db = new Kysely<never>({ dialect: new PostgresDialect({ pool }) });
  try {
    await refuseOtherEncoding(pool);
    await inTransaction(pool, createRoles);
    const migrator = new Migrator({
      db,
      provider: { getMigrations: async () => MIGRATIONS },
      migrationTableSchema: 'ingest',
    });
    const { error, results = [] } = await migrator.migrateToLatest();
    if (error !== undefined) {
      const failed = results.find((result) => result.status === 'Error')?.migrationName ?? 'the first step';
      throw new Error(`The migration stopped at ${failed}; nothing was changed.`, { cause: error });
    }
    const applied = results.map((result) => result.migrationName);
    const accessChanged = await inTransaction(pool, async (client) => {
      await client.query('LOCK TABLE ingest.kysely_migration_lock IN EXCLUSIVE MODE'); // one `migrate` at a time
      return putAccessRight(client);
    });
    return { applied, alreadyThere: Object.keys(MIGRATIONS).length - applied.length, accessChanged };
  } finally {
    await db.destroy();
  }
}

async function inTransaction<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    client.release();
    return result;
  } catch (error) {
    client.release(true);
    throw error;
  }
}

/** In another encoding a load would meet the first character that it lacks, again at each try. */
async function refuseOtherEncoding(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ server_encoding: string }>('SHOW server_encoding');
  const encoding = rows[0]?.server_encoding;
  if (encoding === 'UTF8') return;
  throw new Error(
    `The database has the encoding ${encoding}, and scores need UTF8. Make another one: CREATE DATABASE scores ENCODING 'UTF8' TEMPLATE template0.`,
  );
}
