import { Kysely, PostgresAdapter, PostgresDialect, sql, type Transaction } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { openDatabase } from './connect.ts';
import { createRoles, putAccessRight } from './grants.ts';
import * as ingest from './migrations/0001-ingest.ts';

/** Forward-only, in this order. A migration that has been released is never changed: write the next one. */
const MIGRATIONS: Record<string, Migration> = { '0001-ingest': ingest };

export interface MigrationReport {
  readonly applied: readonly string[];
  readonly alreadyThere: number;
  /** What was not as it should be, and is now: roles, owners, functions, grants; a phrase each. */
  readonly accessChanged: readonly string[];
  /** What would make it harder for readers to disturb others, and is not ours to change: the database may be shared. */
  readonly advice: readonly string[];
}

/** Another `migrate` is awaited for this long, and so is a reader whose table gets another owner. */
const LOCK_TIMEOUT_MS = 30_000;
/**
 * Two that begin at once on an empty database collide once: on the schema, or on a role. Kysely takes a collision on its
 * own tables for nothing, and meets 25P02 with its next statement.
 */
const TRIES = 5;
const COLLISIONS = new Set(['23505', '42P06', '42710', 'XX000', '40P01', '25P02']);

/**
 * Brings the database up to the newest schema, and roles, owners and grants to what they should be, in one transaction:
 * either all of it, or nothing. Two processes may run it at once, and the second finds nothing to do. The owner of the
 * database must run it, with the right to create schemas, and roles if they are missing; or a superuser, who leaves
 * everything to that owner.
 *
 * @throws the database's own error, with the name of the migration that met it; before the first step when the
 *   database cannot store every character that a line of scores may hold.
 */
export async function migrateToLatest(databaseUrl: string): Promise<MigrationReport> {
  const { pool } = openDatabase({
    databaseUrl,
    applicationName: 'score-ingest migrate',
    maxConnections: 1,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    onIdleError: () => {}, // the statement that follows fails by itself
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
  const access = await putAccessRight(trx, applied.length > 0);
  return {
    applied,
    alreadyThere: Object.keys(MIGRATIONS).length - applied.length,
    accessChanged: [...roles, ...access],
    advice: await adviceOn(trx),
  };
}

/** Rights that every login has by PostgreSQL's own defaults; nothing here depends on them being taken away. */
async function adviceOn(trx: Transaction<never>): Promise<string[]> {
  const { rows } = await sql<{ name: string; temporary: boolean; create: boolean }>`
    SELECT quote_ident(current_database()) AS name,
           has_database_privilege('public', current_database(), 'TEMPORARY') AS temporary,
           coalesce(has_schema_privilege('public', to_regnamespace('public')::oid, 'CREATE'), false) AS "create"`.execute(
    trx,
  );
  const [it] = rows;
  const advice: string[] = [];
  if (it?.temporary === true)
    advice.push(
      `every login may fill the disk with temporary tables: REVOKE TEMPORARY ON DATABASE ${it.name} FROM PUBLIC`,
    );
  if (it?.create === true)
    advice.push(
      'every login may create objects in the schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC',
    );
  return advice;
}

/** One `migrate` at a time, by a lock that only owners can take; on an empty database there is none yet (`TRIES`). */
async function lockMigrations(trx: Transaction<never>): Promise<void> {
  const table = await sql<{
    it: string | null;
  }>`SELECT to_regclass('ingest.kysely_migration_lock') AS it`.execute(trx);
  if (table.rows[0]?.it != null)
    await sql`LOCK TABLE ingest.kysely_migration_lock IN EXCLUSIVE MODE`.execute(trx);
  else await sql`CREATE SCHEMA IF NOT EXISTS ingest`.execute(trx); // waits for another one that has just made it
}

/** Kysely's own lock is an advisory one: every login of the database, readers included, could hold it for ever. */
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
      '"migrate" must run as the owner of the database, or as a superuser, and this login is neither. Nothing was changed.',
      { cause: error },
    );
  if (code !== '55P03') return error;
  return new Error(
    `Another session held a lock for more than ${LOCK_TIMEOUT_MS / 1000} s that "migrate" needs: another "migrate", or a reader's long transaction. Nothing was changed; run it again.`,
    { cause: error },
  );
}

/** In another encoding a load would meet the first character that it lacks, again at each try. */
async function refuseOtherEncoding(db: Kysely<never>): Promise<void> {
  const { rows } = await sql<{ server_encoding: string }>`SHOW server_encoding`.execute(db);
  const encoding = rows[0]?.server_encoding;
  if (encoding === 'UTF8') return;
  throw new Error(
    `The database has the encoding ${encoding}, and scores need UTF8. Make another one: CREATE DATABASE scores ENCODING 'UTF8' TEMPLATE template0.`,
  );
}
