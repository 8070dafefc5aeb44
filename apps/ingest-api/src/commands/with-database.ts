import { userInfo } from 'node:os';
import { type Database, openDatabase } from 'db-schema';
import type { Kysely } from 'kysely';
import type { DatabaseConfig } from '../config.ts';

/** For a command that asks a few things as the service would, on one connection, and ends. */
export async function withDatabase<T>(
  config: DatabaseConfig,
  applicationName: string,
  work: (db: Kysely<Database>) => Promise<T>,
): Promise<T> {
  const { db } = openDatabase({
    databaseUrl: config.databaseUrl,
    role: 'ingest_api',
    applicationName,
    maxConnections: 1,
    onIdleError: () => {}, // the query that follows fails by itself
  });
  try {
    return await work(db);
  } finally {
    await db.destroy();
  }
}

/** Who is kept as the one who gave a command. In a container the user may have a number and no name. */
export function cliActor(): string {
  try {
    return `cli:${userInfo().username}`;
  } catch {
    return `cli:uid ${process.getuid?.()}`;
  }
}
