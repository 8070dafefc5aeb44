// What is measured on: a folder, a PostgreSQL server, a database, and the whole system on top of them. BENCH_DIR chooses
// the disk; without it, the system's temporary folder is used.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrateToLatest } from 'db-schema';
import { createTestDatabase, startPostgres } from 'local-postgres';
import type { RunningS3 } from 'local-s3';
import pg from 'pg';
import { startTestSystem, type TestSystem } from '../e2e/support/test-system.ts';

/** Settings that a careful operator would choose. */
const CAREFUL = { shared_buffers: '512MB', max_wal_size: '4GB', wal_level: 'minimal', max_wal_senders: '0' };

export function makeBenchDir(): Promise<string> {
  return mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'score-ingest-bench-'));
}

export interface BenchDatabase {
  readonly dir: string;
  readonly url: string;
  readonly client: pg.Client;
  /** The version of the server. */
  readonly version: string;
  /** Removes the database, the server and `dir`. */
  stop(): Promise<void>;
}

/** A migrated database, and a folder for files. */
export async function startBenchDatabase(settings: Record<string, string> = {}): Promise<BenchDatabase> {
  const dir = await makeBenchDir();
  const server = await startServer(dir, settings);
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

/** Runs `work` with service, loader and uploader as processes, and removes everything when it has ended. */
export async function withBenchSystem(
  work: (system: TestSystem) => Promise<void>,
  bucket?: RunningS3,
): Promise<void> {
  const dir = await makeBenchDir();
  const server = await startServer(dir);
  const { TMPDIR } = process.env;
  try {
    process.env.TMPDIR = dir; // the parent of the system's folder
    const system = await startTestSystem(bucket === undefined ? {} : { bucket });
    try {
      await work(system);
    } finally {
      await system.stop();
    }
  } finally {
    if (TMPDIR === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = TMPDIR;
    await server.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

/**
 * Starts a PostgreSQL server in `dir`, on which createTestDatabase then works. BENCH_SERVER_URL, the address of a
 * superuser, replaces it by another server; the contenders (a) and (c) need one that can read files of this machine.
 */
async function startServer(
  dir: string,
  settings: Record<string, string> = {},
): Promise<{ stop(): Promise<void> }> {
  const otherServer = process.env.BENCH_SERVER_URL;
  if (otherServer && Object.keys(settings).length > 0)
    throw new Error(
      "This benchmark changes the settings of the server, so it needs the benchmark's own: unset BENCH_SERVER_URL.",
    );
  if (otherServer) {
    process.env.TEST_DATABASE_URL = otherServer;
    return { stop: async () => {} };
  }
  const server = await startPostgres({
    dataDir: path.join(dir, 'postgres'),
    settings: { ...CAREFUL, ...settings },
  });
  process.env.TEST_DATABASE_URL = server.superuserUrl;
  return { stop: () => server.stop() };
}
