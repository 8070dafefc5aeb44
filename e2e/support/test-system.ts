import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { type Ending, type RunningProgram, runProgram, startProgram, waitForLog } from './program.ts';

/** The whole system, each part a process, on a database and a folder of its own. */
export interface TestSystem {
  databaseUrl: string;
  /** Of the whole service, with the scopes push and read. */
  token: string;
  /** A folder for the test's own files; removed with the system. */
  workDir: string;
  /** Starts a service, on a given port (after a kill, say) or a free one. */
  startService(options?: { port?: number; env?: Record<string, string> }): Promise<Service>;
  startLoader(env?: Record<string, string>): RunningProgram;
  /** `uploader push …` against `url`, with the system's token. */
  startUploader(url: string, args: string[], env?: Record<string, string>): RunningProgram;
  runUploader(url: string, args: string[], env?: Record<string, string>): Promise<Ending>;
  query<Row extends object>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** Ends every process, then drops the database: rejects when something left a connection open. */
  stop(): Promise<void>;
}

/** A second of work; on a machine that does much else, with the torture at low priority, it takes far longer. */
const START_WITHIN_MS = 90_000;

export interface Service extends RunningProgram {
  port: number;
  url: string;
}

export interface TestSystemOptions {
  /** A server of the test's own, that it may kill; else a database on the one that all tests share. */
  serverUrl?: string;
  /** Where service and loader reach the database: the port of a proxy. */
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
