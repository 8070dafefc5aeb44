import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { type ServerProcess, startServer } from './upload/server-process.ts';

const INGEST_API = path.join(import.meta.dirname, '../apps/ingest-api/bin/ingest-api.js');

export interface BenchService extends ServerProcess {
  /** May push and read everything. */
  readonly token: string;
}

/** The real service as its own process, on a database that is migrated, with a token. */
export async function startService(dataDir: string, databaseUrl: string): Promise<BenchService> {
  const env = {
    ...process.env,
    DATABASE_URL: databaseUrl,
    INGEST_DATA_DIR: dataDir,
    INGEST_PORT: '0',
    // One token stands for a fleet here: requests are counted, as always, but nobody is sent away.
    INGEST_RATE_PER_MINUTE: '10000000',
  };
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [INGEST_API, 'token', 'create', path.basename(dataDir)],
    { env },
  );
  const server = await startServer({
    name: 'The service',
    command: process.execPath,
    args: [INGEST_API, 'serve'],
    env,
    portOf: (line) => (JSON.parse(line) as { port?: number }).port,
  });
  return { ...server, token: stdout.trimEnd().split('\n').at(-1) ?? '' };
}
