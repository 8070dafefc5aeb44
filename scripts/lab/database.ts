import { createWriteStream } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from 'local-postgres';
import pg from 'pg';
import { LabFailure } from './lab-failure.ts';
import type { Stoppable } from './stoppable.ts';

const DATABASE = 'score_ingest';
const ROOMY_MEMORY_BYTES = 4 * 1024 ** 3;

export interface Database extends Stoppable {
  /** The lab's database, as the superuser. */
  url: string;
  broken: Promise<never>;
}

/** A real database that keeps what it is given: fsync is on. */
export async function startDatabase(home: string, logDir: string): Promise<Database> {
  const logPath = join(logDir, 'postgres.log');
  const log = createWriteStream(logPath, { mode: 0o600 });
  const server = await startPostgres({
    dataDir: databaseDirIn(home),
    log: (chunk) => log.write(chunk),
    settings: {
      // A load fills a table that it made itself: with minimal WAL only the result is written and synced.
      wal_level: 'minimal',
      max_wal_senders: '0',
      max_wal_size: '4GB',
      shared_buffers: totalmem() >= ROOMY_MEMORY_BYTES ? '512MB' : '128MB',
    },
  }).catch((cause: Error) => {
    throw new LabFailure(`${cause.message}\nIts log is ${logPath}.`, { cause });
  });
  let stopping = false;
  const broken = server.ended.then(() => {
    if (stopping) return new Promise<never>(() => undefined);
    throw new LabFailure(`PostgreSQL (process ${server.pid}) has ended by itself. Its log is ${logPath}.`);
  });
  broken.catch(() => undefined);
  const url = new URL(server.superuserUrl);
  url.pathname = `/${DATABASE}`;
  await createDatabase(server.superuserUrl);
  return {
    name: 'PostgreSQL',
    url: url.href,
    broken,
    async stop() {
      stopping = true;
      await server.stop();
      log.end();
    },
  };
}

/** Also the place for what lives and dies with the data. */
export function databaseDirIn(home: string): string {
  return join(home, 'postgres');
}

async function createDatabase(superuserUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}
