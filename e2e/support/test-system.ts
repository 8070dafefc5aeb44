import { randomBytes } from 'node:crypto';
import { chown, mkdtemp, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { createTestDatabase, type RunningPostgres, startPostgres, type TestDatabase } from 'local-postgres';
import { NO_GATEWAY, type RunningS3, startS3, versityGateway } from 'local-s3';
import pg from 'pg';
import { type Ending, type RunningProgram, runProgram, startProgram, waitForLog } from './programs.ts';

/** The whole system: service, loader and uploader as processes, with their own database and folder. */
export interface TestSystem {
  databaseUrl: string;
  /** For all models, with the scopes push and read. */
  token: string;
  /** A folder for the test's own files. `stop` removes it. */
  workDir: string;
  store: TestStore;
  /** Starts a service on the given port (after a kill, for example) or on a free one. */
  startService(options?: { port?: number; env?: Record<string, string>; cwd?: string }): Promise<Service>;
  startLoader(env?: Record<string, string>, cwd?: string): RunningProgram;
  /** `uploader push …` against `url`, with the system's token. */
  startUploader(url: string, args: string[], env?: Record<string, string>): RunningProgram;
  runUploader(url: string, args: string[], env?: Record<string, string>): Promise<Ending>;
  query<Row extends object>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** Ends every process, then drops the database. Rejects when a connection was left open. */
  stop(): Promise<void>;
}

/** What the disk has, of the folder or of the bucket. */
export interface TestStore {
  /** The file names, or the keys of objects, of everything but the marker. */
  names(): Promise<string[]>;
  read(name: string): Promise<Buffer>;
  /** Undefined when it does not exist. */
  bytesOf(name: string): Promise<number | undefined>;
  /** Makes everything older than a day: only then is an orphan removed. */
  age(): Promise<void>;
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
  /** The store is a place of its own in this bucket; by default it is a folder of the system. */
  bucket?: RunningS3;
  /** Of a proxy in front of the bucket. */
  bucketEndpoint?: string;
}

export async function startTestSystem({
  serverUrl,
  databasePort,
  bucket,
  bucketEndpoint = bucket?.endpoint ?? '',
}: TestSystemOptions = {}): Promise<TestSystem> {
  const workDir = await mkdtemp(join(tmpdir(), 'score-ingest-e2e-'));
  const { database, token } = await migratedDatabase(serverUrl);
  const started: RunningProgram[] = [];
  const reachedAt = new URL(database.url);
  if (databasePort !== undefined) reachedAt.port = String(await databasePort(database.url));
  const prefix = randomBytes(6).toString('hex');
  const storeEnv: Record<string, string> =
    bucket === undefined
      ? { INGEST_DATA_DIR: join(workDir, 'uploads') }
      : {
          ...bucket.env,
          INGEST_STORE: `${bucket.env.INGEST_STORE}/${prefix}`,
          INGEST_S3_ENDPOINT: bucketEndpoint,
        };
  const serverEnv = { DATABASE_URL: reachedAt.href, ...storeEnv };

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
    store: storeIn(bucket === undefined ? join(workDir, 'uploads') : join(bucket.bucketDir, prefix)),
    async startService({ port = 0, env = {}, cwd } = {}) {
      const listen = { INGEST_HOST: '127.0.0.1', INGEST_PORT: String(port) };
      const program = start('ingest-api', ['serve'], { ...serverEnv, ...listen, ...env }, cwd);
      const listening = await waitForLog(program, 'listening', START_WITHIN_MS);
      const actualPort = Number(listening.port);
      return { ...program, port: actualPort, url: `http://127.0.0.1:${actualPort}` };
    },
    startLoader: (env = {}, cwd) => start('ingest-api', ['load'], { ...serverEnv, ...env }, cwd),
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

/** An object of the bucket is a file, too. */
function storeIn(folder: string): TestStore {
  const names = async () => {
    // Others may remove a folder of objects while it is being read.
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
      .filter((name) => name !== 'store.json')
      .sort();
  };
  return {
    names,
    read: (name) => readFile(join(folder, name)),
    bytesOf: (name) =>
      stat(join(folder, name)).then(
        ({ size }) => size,
        () => undefined,
      ),
    async age() {
      const twoDaysAgo = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
      for (const name of await names()) await utimes(join(folder, name), twoDaysAgo, twoDaysAgo);
    },
  };
}

/** By the commands of a new installation; on the shared server they run once, and each database is a copy of the first. */
async function migratedDatabase(serverUrl?: string): Promise<{ database: TestDatabase; token: string }> {
  if (serverUrl !== undefined)
    return { database: { url: serverUrl, drop: async () => {} }, token: await install(serverUrl) };
  const database = await createTestDatabase({
    name: 'installed',
    migrate: async (url) => {
      tokenOfCopies = await install(url);
    },
  });
  return { database, token: tokenOfCopies };
}

let tokenOfCopies = '';

/** @returns a token. */
async function install(url: string): Promise<string> {
  succeeded('migrate', await runProgram('ingest-api', ['migrate'], { DATABASE_URL: url }));
  return createToken(url);
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
  dataDir: string;
  /** Ends the server at once, as `pg_ctl stop -m immediate` or a crash does, and starts it again, with recovery. */
  restart(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  start(): Promise<void>;
  /** A clean shutdown; `start` starts it again. */
  shutDown(): Promise<void>;
  /** Makes the user that the server runs as the owner of a folder. */
  own(folder: string): Promise<void>;
  stop(): Promise<void>;
}

export async function startOwnPostgres(): Promise<OwnPostgres> {
  return ownPostgres({});
}

/**
 * A server with a streaming hot standby. A commit waits until the standby shows it (remote_apply). The standby cancels a query that
 * has kept it from replaying for a second.
 */
export async function startOwnPostgresWithStandby(): Promise<{ primary: OwnPostgres; standby: OwnPostgres }> {
  const primary = await ownPostgres({
    synchronous_standby_names: '*',
    synchronous_commit: 'remote_apply',
    wal_keep_size: '4GB',
  });
  await primary.shutDown();
  const { hostname, password } = new URL(primary.url);
  const standby = await ownPostgres(
    {
      primary_conninfo: `host=${hostname} port=${primary.port} user=postgres password=${password}`,
      wal_retrieve_retry_interval: '200ms',
      wal_receiver_status_interval: '1s',
      max_standby_streaming_delay: '1s',
    },
    primary.dataDir,
  );
  await primary.start();
  return { primary, standby };
}

async function ownPostgres(more: Record<string, string>, standbyOf?: string): Promise<OwnPostgres> {
  const dataDir = await mkdtemp(join(tmpdir(), 'score-ingest-postgres-'));
  const settings = { shared_buffers: '128MB', max_connections: '100', ...more };
  const options = { dataDir, settings, ...(standbyOf !== undefined && { standbyOf }) };
  let server: RunningPostgres = await startPostgres(options);
  const { port, superuserUrl } = server;
  let isRunning = true;
  async function kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void> {
    isRunning = false;
    await server.kill(signal);
  }
  async function start(): Promise<void> {
    server = await startPostgres({ ...options, port });
    isRunning = true;
  }
  async function shutDown(): Promise<void> {
    isRunning = false;
    await server.stop();
  }
  return {
    url: superuserUrl,
    port,
    dataDir,
    kill,
    start,
    shutDown,
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

/** An S3 server for one test, which may kill it. It keeps its port and its objects. */
export interface OwnS3 {
  s3: RunningS3;
  /** Ends the server and starts it with other credentials: it refuses the old ones. */
  renewCredentials(): Promise<RunningS3>;
  stop(): Promise<void>;
}

/** Undefined, with a line for the test that is then skipped, where there is no such server. */
export async function startOwnS3(): Promise<OwnS3 | undefined> {
  const binary = await versityGateway();
  if (binary === undefined) {
    console.log(`      ${NO_GATEWAY}`);
    return undefined;
  }
  const dataDir = await mkdtemp(join(tmpdir(), 'score-ingest-s3-'));
  const s3 = await startS3({ binary, dataDir });
  let current = s3;
  return {
    s3,
    async renewCredentials() {
      await current.kill();
      current = await startS3({ binary, dataDir, port: Number(new URL(s3.endpoint).port) });
      return current;
    },
    async stop() {
      await current.kill();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
