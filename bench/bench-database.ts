import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrateToLatest } from 'db-schema';
import { startPostgres } from 'local-postgres';
import pg from 'pg';

/** A real server with settings that a careful operator would choose, and a folder for files; both go at the end. */
export interface BenchDatabase {
  readonly dir: string;
  readonly url: string;
  readonly client: pg.Client;
  readonly version: string;
  stop(): Promise<void>;
}

/** `BENCH_DIR` chooses the disk; the system's temporary folder when it is not set. */
export async function startBenchDatabase(): Promise<BenchDatabase> {
  const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'score-ingest-bench-'));
  const server = await startPostgres({
    dataDir: path.join(dir, 'postgres'),
    settings: { shared_buffers: '512MB', max_wal_size: '4GB', wal_level: 'minimal', max_wal_senders: '0' },
  });
  await migrateToLatest(server.superuserUrl);
  const client = new pg.Client({ connectionString: server.superuserUrl });
  await client.connect();
  const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
  return {
    dir,
    url: server.superuserUrl,
    client,
    version: rows[0]?.server_version ?? 'unknown',
    async stop() {
      await client.end();
      await server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
