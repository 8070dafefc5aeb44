// A mocha root plugin (`require` in .mocharc.json): one real PostgreSQL for the whole test run. Tests
// reach it through `createTestDatabase`, or by TEST_DATABASE_URL, the superuser's address. When that
// variable is set already, the server it names is used, and none is started.
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunningPostgres, startPostgres } from './start-postgres.ts';
import { dropTemplates } from './test-database.ts';

let postgres: RunningPostgres | undefined;

export async function mochaGlobalSetup(): Promise<void> {
  if (process.env.TEST_DATABASE_URL) return;
  postgres = await startPostgres({
    dataDir: await mkdtemp(join(tmpdir(), 'score-ingest-test-')),
    temporary: true,
    settings: {
      // Nothing here outlives the run, so nothing needs to reach the disk.
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      max_connections: '200',
      shared_buffers: '128MB',
    },
  });
  process.env.TEST_DATABASE_URL = postgres.superuserUrl;
}

export async function mochaGlobalTeardown(): Promise<void> {
  await (postgres === undefined ? dropTemplates() : postgres.stop());
}
