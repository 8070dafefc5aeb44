import { Kysely, PostgresAdapter, PostgresDialect, sql, type Transaction } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { openDatabase } from './connect.ts';
import { adviceOn, createRoles, setAccess } from './grants.ts';
import * as ingest from './migrations/0001-ingest.ts';

/** Forward-only, in this order. A migration that has been released is never changed: write the next one. */
const MIGRATIONS: Record<string, Migration> = { '0001-ingest': ingest };

interface MigrationReport {
  readonly applied: readonly string[];
  readonly alreadyThere: number;
  /** Roles, owners, functions and grants that were wrong and are now set; one phrase each. */
  readonly accessChanged: readonly string[];
  /**
   * What would protect readers from each other. `migrate` does not do it: other applications may share the
   * database.
   */
  readonly advice: readonly string[];
}

/**
 * `migrate` waits for another `migrate`, and for readers of a table that gets another owner, at most this
 * long.
 */
const LOCK_TIMEOUT_MS = 30_000;
/**
 * Two that start at once on an empty database collide once, on the schema or on a role. Kysely ignores a
 * collision on its own tables, and its next statement fails with 25P02.
 */
const TRIES = 5;
const COLLISIONS = new Set(['23505', '42P06', '42710', 'XX000', '40P01', '25P02']);

/**
 * Brings the database to the newest schema, and sets roles, owners and grants, in one transaction: all or
 * nothing. Two processes may run it at once; the second finds nothing to do. Run it as the owner of the
 * database, with the right to create schemas, and roles if they are missing; or as a superuser, who leaves
 * everything to that owner.
 *
 * @throws the database's error, with the name of the migration that failed; before the first step when the
 *   database cannot store every character that a line of scores can contain.
 */
export async function migrateToLatest(databaseUrl: string): Promise<MigrationReport> {
  const { pool } = openDatabase({
    databaseUrl,
    applicationName: 'score-ingest migrate',
    maxConnections: 1,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    onIdleError: () => {}, // the next statement fails with an error of its own
  });
  const db = new Kysely<never>({ dialect: new DialectWithoutLock({ pool }) });
  try {
    await refuseOtherEncoding(db);
    for (let tried = 1; ; tried += 1) {
      try {
        return await db.transaction().execute(migrateWithin);
      } catch (error) {
        const code = databaseCode(error);
        if (code === undefined || !COLLISIONS.has(code) || tried === TRIES) throw explained(error);
      }
    }
  } finally {
    await db.destroy();
  }
}

async function migrateWithin(trx: Transaction<never>): Promise<MigrationReport> {
  await lockMigrations(trx);
  const roles = await createRoles(trx);
  const migrator = new Migrator({
    db: trx,
    provider: { getMigrations: async () => MIGRATIONS },
    migrationTableSchema: 'ingest',
  });
  const { error, results = [] } = await migrator.migrateToLatest();
  if (error !== undefined) {
    const failed = results.find((result) => result.status === 'Error')?.migrationName ?? 'the first step';
    throw new Error(`The migration stopped at ${failed}; nothing was changed.`, { cause: error });
  }
  const applied = results.map((result) => result.migrationName);
  const access = await setAccess(trx, applied.length > 0);
  return {
    applied,
    alreadyThere: Object.keys(MIGRATIONS).length - applied.length,
    accessChanged: [...roles, ...access],
    advice: await adviceOn(trx),
  };
}

/**
 * One `migrate` at a time, by a lock that only owners can take; an empty database does not have it yet (see
 * `TRIES`).
 */
async function lockMigrations(trx: Transaction<never>): Promise<void> {
  const table = await sql<{
    it: string | null;
  }>`SELECT to_regclass('ingest.kysely_migration_lock') AS it`.execute(trx);
  if (table.rows[0]?.it != null)
    await sql`LOCK TABLE ingest.kysely_migration_lock IN EXCLUSIVE MODE`.execute(trx);
  else await sql`CREATE SCHEMA IF NOT EXISTS ingest`.execute(trx); // waits for another `migrate` that is creating it
}

/**
 * Kysely's own lock is an advisory lock: every login of the database, readers included, could hold it
 * forever.
 */
class DialectWithoutLock extends PostgresDialect {
  override createAdapter(): PostgresAdapter {
    return new AdapterWithoutLock();
  }
}

class AdapterWithoutLock extends PostgresAdapter {
  override async acquireMigrationLock(): Promise<void> {}
  override async releaseMigrationLock(): Promise<void> {}
}

function databaseCode(error: unknown): string | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause)
    if (cause instanceof pg.DatabaseError) return cause.code;
  return undefined;
}

function explained(error: unknown): unknown {
  const code = databaseCode(error);
  if (error instanceof pg.DatabaseError && code === '42501')
    return new Error(
      '"migrate" must run as the owner of the database or as a superuser, and this login is neither. Nothing was changed.',
      { cause: error },
    );
  if (code !== '55P03') return error;
  return new Error(
    `Another session, such as another "migrate" or a reader's long transaction, held a lock that "migrate" needs for more than ${LOCK_TIMEOUT_MS / 1000} s. Nothing was changed. Run it again.`,
    { cause: error },
  );
}

/** In another encoding a load would fail at the first character that the encoding lacks, at every attempt. */
async function refuseOtherEncoding(db: Kysely<never>): Promise<void> {
  const { rows } = await sql<{ server_encoding: string }>`SHOW server_encoding`.execute(db);
  const encoding = rows[0]?.server_encoding;
  if (encoding === 'UTF8') return;
  throw new Error(
    `The database has the encoding ${encoding}, and scores need UTF8. Create another database: CREATE DATABASE scores ENCODING 'UTF8' TEMPLATE template0.`,
  );
}
