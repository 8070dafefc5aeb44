import { Kysely, PostgresDialect } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import * as ingest from './migrations/0001-ingest.ts';
import * as gatesAndRetention from './migrations/0002-gates-and-retention.ts';
import * as uploadWriter from './migrations/0003-upload-writer.ts';
import * as tokenRotation from './migrations/0005-token-rotation.ts';
import * as phaseSeconds from './migrations/0006-phase-seconds.ts';
import * as keyBuild from './migrations/0007-key-build.ts';

/** Forward-only, in this order. A migration that has been released is never changed: write the next one. */
const MIGRATIONS: Record<string, Migration> = {
  '0001-ingest': ingest,
  '0002-gates-and-retention': gatesAndRetention,
  '0003-upload-writer': uploadWriter,
  '0005-token-rotation': tokenRotation,
  '0006-phase-seconds': phaseSeconds,
  '0007-key-build': keyBuild,
};

/** What the database's owner must be able to do for `migrate`: create schemas, and create roles if they are missing. */
export interface MigrationReport {
  readonly applied: readonly string[];
  readonly alreadyThere: number;
}

/**
 * Brings the database up to the newest schema, in one transaction, under an advisory lock:
 * two processes may run it at once, and the second finds nothing to do.
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
  });
  const db = new Kysely<never>({ dialect: new PostgresDialect({ pool }) });
  try {
    await refuseOtherEncoding(pool);
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
    return { applied, alreadyThere: Object.keys(MIGRATIONS).length - applied.length };
  } finally {
    await db.destroy();
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
