// A mocha root plugin (`require` in .mocharc.json): one real PostgreSQL for each process that runs tests, which is each
// worker of `mocha --parallel`. Roles, settings and the list of sessions belong to a server, so test files that run at
// the same time do not share one. Tests reach it through `createTestDatabase`, or by TEST_DATABASE_URL, the superuser's
// address. When that variable is already set, the server it names is used, and none is started.
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunningPostgres, startPostgres } from './start-postgres.ts';
import { dropTemplates } from './test-database.ts';

const START_WITHIN_MS = 60_000;
/** A worker runs these hooks once for each of its files, and its server stays for the next one. */
const IS_WORKER = process.env.MOCHA_WORKER_ID !== undefined;

let postgres: RunningPostgres | undefined;

export const mochaHooks = {
  async beforeAll(this: Mocha.Context): Promise<void> {
    if (process.env.TEST_DATABASE_URL) return;
    this.timeout(START_WITHIN_MS);
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
  },

  async afterAll(this: Mocha.Context): Promise<void> {
    if (postgres === undefined) await dropTemplates();
    // That of a worker ends with its process (`host.ts`).
    else if (!IS_WORKER) await postgres.stop();
  },
};
