import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrateToLatest } from 'db-schema';
import { createTestDatabase } from 'local-postgres';
import pg from 'pg';
import { startBenchServer } from './bench-server.ts';

/** A migrated database, and a folder for files; both go at the end. */
export interface BenchDatabase {
  readonly dir: string;
  readonly url: string;
  readonly client: pg.Client;
  readonly version: string;
  stop(): Promise<void>;
}

/** `BENCH_DIR` chooses the disk; the system's temporary folder when it is not set. */
export async function startBenchDatabase(settings: Record<string, string> = {}): Promise<BenchDatabase> {
  const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'score-ingest-bench-'));
  const server = await startBenchServer(dir, settings);
  process.env.TEST_DATABASE_URL = server.url; // where createTestDatabase makes it
  const database = await createTestDatabase();
  await migrateToLatest(database.url);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
  return {
    dir,
    url: database.url,
    client,
    version: rows[0]?.server_version ?? 'unknown',
    async stop() {
      await client.end();
      await database.drop();
      await server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
