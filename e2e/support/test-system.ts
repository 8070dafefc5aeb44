import { chown, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTestDatabase, type RunningPostgres, startPostgres, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { type Ending, type RunningProgram, runProgram, startProgram, waitForLog } from './programs.ts';

/** The whole system: service, loader and uploader as processes, with their own database and folder. */
export interface TestSystem {
  databaseUrl: string;
  /** For all models, with the scopes push and read. */
  token: string;
  /** A folder for the test's own files. `stop` removes it. */
  workDir: string;
  /** Starts a service on the given port (after a kill, for example) or on a free one. */
  startService(options?: { port?: number; env?: Record<string, string> }): Promise<Service>;
  startLoader(env?: Record<string, string>): RunningProgram;
  /** `uploader push …` against `url`, with the system's token. */
  startUploader(url: string, args: string[], env?: Record<string, string>): RunningProgram;
  runUploader(url: string, args: string[], env?: Record<string, string>): Promise<Ending>;
  query<Row extends object>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** Ends every process, then drops the database. Rejects when a connection was left open. */
  stop(): Promise<void>;
}

/** A start takes a second; on a busy machine, for a torture at low priority, far longer. */
const START_WITHIN_MS = 90_000;

export interface Service extends RunningProgram {
  port: number;
  url: string;
}

interface TestSystemOptions {
  /** A server that the test may kill. By default: a database on the server that all tests share. */
  serverUrl?: string;
  /** The port at which service and loader connect to the database: that of a proxy. */
  databasePort?: (databaseUrl: string) => Promise<number>;
}

export async function startTestSystem({
  serverUrl,
  databasePort,
}: TestSystemOptions = {}): Promise<TestSystem> {
  const workDir = await mkdtemp(join(tmpdir(), 'score-ingest-e2e-'));
  const database = await databaseOf(serverUrl);
  const token = await createToken(database.url);
  const started: RunningProgram[] = [];
  const reachedAt = new URL(database.url);
  if (databasePort !== undefined) reachedAt.port = String(await databasePort(database.url));
  const serverEnv = { DATABASE_URL: reachedAt.href, INGEST_DATA_DIR: join(workDir, 'uploads') };

  function start(...args: Parameters<typeof startProgram>): RunningProgram {
    const program = startProgram(...args);
    started.push(program);
    return program;
  }

  function startUploader(url: string, args: string[], env: Record<string, string> = {}): RunningProgram {
    return start('uploader', args, { UPLOADER_URL: url, UPLOADER_TOKEN: token, HOME: workDir, ...env });
  }

  return {
    databaseUrl: database.url,
    token,
    workDir,
    async startService({ port = 0, env = {} } = {}) {
      const listen = { INGEST_HOST: '127.0.0.1', INGEST_PORT: String(port) };
      const program = start('ingest-api', ['serve'], { ...serverEnv, ...listen, ...env });
      const listening = await waitForLog(program, 'listening', START_WITHIN_MS);
      const actualPort = Number(listening.port);
      return { ...program, port: actualPort, url: `http://127.0.0.1:${actualPort}` };
    },
    startLoader: (env = {}) => start('ingest-api', ['load'], { ...serverEnv, ...env }),
    startUploader,
    runUploader: (url, args, env) => startUploader(url, args, env).ended,
    query: (sql, values) => query(database.url, sql, values),
    async stop() {
      await Promise.all(started.map((program) => program.kill('SIGKILL')));
      await rm(workDir, { recursive: true, force: true });
      await database.drop();
    },
  };
}

async function databaseOf(serverUrl: string | undefined): Promise<TestDatabase> {
  if (serverUrl === undefined) return createTestDatabase({ name: 'migrated', migrate });
  await migrate(serverUrl);
  return { url: serverUrl, drop: async () => {} };
}

async function migrate(url: string): Promise<void> {
  succeeded('migrate', await runProgram('ingest-api', ['migrate'], { DATABASE_URL: url }));
}

async function createToken(url: string): Promise<string> {
  const ending = await runProgram('ingest-api', ['token', 'create', 'e2e'], { DATABASE_URL: url });
  return succeeded('token create', ending).trimEnd().split('\n').at(-1) ?? '';
}

function succeeded(command: string, { code, signal, stdout, stderr }: Ending): string {
  if (code === 0) return stdout;
  throw new Error(`ingest-api ${command} ended with ${signal ?? code}:\n${stderr}${stdout}`);
}

async function query<Row extends object>(url: string, sql: string, values: unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url, application_name: 'e2e test' });
  await client.connect();
  try {
    return (await client.query<Row>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

/** A PostgreSQL server for one test, which may kill it. It keeps its port over restarts. */
export interface OwnPostgres {
  url: string;
  port: number;
  /** Ends the server at once, as `pg_ctl stop -m immediate` or a crash does, and starts it again, with recovery. */
  restart(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  start(): Promise<void>;
  /** Makes the user that the server runs as the owner of a folder. */
  own(folder: string): Promise<void>;
  stop(): Promise<void>;
}

export async function startOwnPostgres(): Promise<OwnPostgres> {
  const dataDir = await mkdtemp(join(tmpdir(), 'score-ingest-postgres-'));
  const settings = { shared_buffers: '128MB', max_connections: '100' };
  let server: RunningPostgres = await startPostgres({ dataDir, settings });
  const { port, superuserUrl } = server;
  let isRunning = true;
  async function kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void> {
    isRunning = false;
    await server.kill(signal);
  }
  async function start(): Promise<void> {
    server = await startPostgres({ dataDir, port, settings });
    isRunning = true;
  }
  return {
    url: superuserUrl,
    port,
    kill,
    start,
    async restart(signal) {
      await kill(signal);
      await start();
    },
    async own(folder) {
      const { uid, gid } = await stat(join(dataDir, 'cluster'));
      await chown(folder, uid, gid);
    },
    async stop() {
      if (isRunning) await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
