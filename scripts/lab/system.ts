import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startPostgres } from 'local-postgres';
import { NO_GATEWAY, startS3, versityGateway } from 'local-s3';
import pg from 'pg';
import type { LabEnv } from './home.ts';
import { LabFailure, type LabSettings, ROOT } from './settings.ts';

const INGEST_API = join(ROOT, 'apps/ingest-api/bin/ingest-api.js');
const END_WITH_PARENT = fileURLToPath(new URL('./end-with-parent.ts', import.meta.url));
const DATABASE = 'score_ingest';
const LARGE_MEMORY_BYTES = 4 * 1024 ** 3;
/** The port when LAB_PORT is not set. When it is in use, the service listens on any free port. */
const USUAL_PORT = 8080;
const STOPS_WITHIN_MS = 30_000;

/** A running part of the lab. */
interface Part {
  name: string;
  /** Rejects when the part ends before `stop`. */
  broken: Promise<never>;
  stop(): Promise<void>;
}

export interface System {
  env: LabEnv;
  /** Rejects when a part ends before it is stopped. */
  broken: Promise<never>;
}

/** Adds each part to `parts` as soon as it runs, so that it is stopped also when a later step fails. */
export async function startSystem(settings: LabSettings, parts: Part[]): Promise<System> {
  const logDir = join(settings.home, 'logs');
  const uploadDir = join(settings.home, 'uploads');
  await Promise.all([logDir, uploadDir].map((dir) => mkdir(dir, { recursive: true, mode: 0o700 })));

  console.log('lab: starting PostgreSQL');
  const databaseDir = join(settings.home, 'postgres');
  const database = await startDatabase(databaseDir, logDir);
  parts.push(database);
  console.log('lab: migrating');
  await runIngestApi(['migrate'], { DATABASE_URL: database.url });
  const logins = await makeLogins(database.url);
  const uploaderToken = await labToken(databaseDir, database.url);

  console.log('lab: starting service and loader');
  const port = settings.port ?? (await usualOrAnyPort());
  const storage = await startStore(settings, uploadDir, parts);
  const listen = { INGEST_HOST: '127.0.0.1', INGEST_PORT: String(port) };
  const serve = startIngestApi('serve', { DATABASE_URL: logins.apiUrl, ...storage, ...listen }, logDir);
  parts.push(serve);
  const load = startIngestApi('load', { DATABASE_URL: logins.loaderUrl, ...storage }, logDir);
  parts.push(load);

  const broken = Promise.race([database.broken, serve.broken, load.broken]);
  // Callers may await `broken` later; until then a rejection must not end the process as unhandled.
  broken.catch(() => undefined);
  const listening = await Promise.race([broken, serve.listening]);
  const url = `http://127.0.0.1:${listening}`;
  return {
    env: { uploaderUrl: url, uploaderToken, databaseUrl: database.url, statusUrl: `${url}/` },
    broken,
  };
}

/** Stops the last part first, so that each part can use the parts before it until its end. A failure is printed. */
export async function stopParts(parts: Part[]): Promise<void> {
  for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
    const { name } = part;
    await part.stop().catch((error: unknown) => console.error(`lab: ${name} did not stop cleanly: ${error}`));
  }
}

/** What service and loader need to reach the store. */
async function startStore(
  { home, store }: LabSettings,
  uploadDir: string,
  parts: Part[],
): Promise<Readonly<Record<string, string>>> {
  if (store === 'folder') return { INGEST_STORE: uploadDir };
  console.log(
    'lab: starting an S3 server (versitygw; the first time it is built with Go, which takes a minute or two)',
  );
  const binary = await versityGateway();
  if (binary === undefined)
    throw new LabFailure(`${NO_GATEWAY} Install Go, or set VERSITYGW to the program.`);
  const s3 = await startS3({ binary, dataDir: join(home, 's3') });
  parts.push({ name: 'the S3 server', broken: new Promise<never>(() => undefined), stop: () => s3.kill() });
  return s3.env;
}

/** A database on disk, with fsync on. `url` is that of the superuser. */
async function startDatabase(dataDir: string, logDir: string): Promise<Part & { url: string }> {
  const logPath = join(logDir, 'postgres.log');
  const log = createWriteStream(logPath, { mode: 0o600 });
  const server = await startPostgres({
    dataDir,
    log: (chunk) => log.write(chunk),
    settings: {
      // A load fills a table that it has created. With minimal WAL, only the table itself is written and synced.
      wal_level: 'minimal',
      max_wal_senders: '0',
      max_wal_size: '4GB',
      shared_buffers: totalmem() >= LARGE_MEMORY_BYTES ? '512MB' : '128MB',
    },
  }).catch((cause: Error) => {
    throw new LabFailure(`${cause.message}\nIts log is ${logPath}.`, { cause });
  });
  let isStopping = false;
  const broken = server.ended.then(() => {
    if (isStopping) return new Promise<never>(() => undefined);
    throw new LabFailure(`PostgreSQL (process ${server.pid}) has ended unexpectedly. Its log is ${logPath}.`);
  });
  broken.catch(() => undefined);
  const url = new URL(server.superuserUrl);
  url.pathname = `/${DATABASE}`;
  await withClient(server.superuserUrl, async (client) => {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  });
  return {
    name: 'PostgreSQL',
    url: url.href,
    broken,
    async stop() {
      isStopping = true;
      await server.stop();
      log.end();
    },
  };
}

/** The roles of the migrations cannot log in, so each gets a login. Passwords change at every start. */
async function makeLogins(superuserUrl: string): Promise<{ apiUrl: string; loaderUrl: string }> {
  const logins = { lab_api: 'ingest_api', lab_loader: 'ingest_loader', lab_reader: 'score_reader' };
  return withClient(superuserUrl, async (client) => {
    for (const [login, role] of Object.entries(logins)) {
      const { rowCount } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [login]);
      if (rowCount === 0) await client.query(`CREATE ROLE ${login} LOGIN IN ROLE ${role}`);
    }
    const urlOf = async (login: keyof typeof logins) => {
      const url = new URL(superuserUrl);
      url.username = login;
      url.password = randomBytes(18).toString('hex');
      await client.query(`ALTER ROLE ${login} PASSWORD '${url.password}'`);
      return url.href;
    };
    return { apiUrl: await urlOf('lab_api'), loaderUrl: await urlOf('lab_loader') };
  });
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** The lab's token, for the uploader and the status page. It is kept beside the database that holds its hash. */
async function labToken(databaseDir: string, databaseUrl: string): Promise<string> {
  const path = join(databaseDir, 'uploader-token');
  const kept = await readFile(path, 'utf8').catch(() => '');
  if (kept !== '') return kept;
  // The name contains the time, so that it is free even when an earlier token was created and not written to the file.
  const output = await runIngestApi(
    ['token', 'create', `lab-${Date.now()}`, '--scope', 'push,read,operate'],
    { DATABASE_URL: databaseUrl },
  );
  const token = output.trimEnd().split('\n').at(-1) ?? '';
  if (token === '') throw new LabFailure('`ingest-api token create` printed no token.');
  await writeFile(path, token, { mode: 0o600 });
  return token;
}

/** Runs a command of ingest-api to its end. @returns its stdout. */
async function runIngestApi(args: string[], env: Record<string, string>): Promise<string> {
  const options = { env: { ...process.env, ...env } };
  try {
    return (await promisify(execFile)(process.execPath, [INGEST_API, ...args], options)).stdout;
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string };
    throw new LabFailure(`ingest-api ${args.join(' ')} failed:\n${stderr.trim() || message}`, {
      cause: error,
    });
  }
}

/** Starts a command of ingest-api that runs until it is stopped, with its log in a file. */
function startIngestApi(
  command: 'serve' | 'load',
  env: Record<string, string>,
  logDir: string,
): Part & { listening: Promise<number> } {
  const name = `ingest-api ${command}`;
  const logPath = join(logDir, `${command}.log`);
  const log = createWriteStream(logPath, { mode: 0o600 });
  // Detached, so that Ctrl-C in the terminal reaches only the lab, which stops its parts in order.
  const child = spawn(process.execPath, ['--import', END_WITH_PARENT, INGEST_API, command], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true,
  });
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  const ended = once(child, 'close').then(([code, signal]) => {
    log.end();
    return signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
  });
  let isStopping = false;
  const broken = ended.then(async (how) => {
    if (isStopping) return new Promise<never>(() => undefined);
    throw new LabFailure(`${name} ${how}.\n${await tailOf(logPath)}\nIts log is ${logPath}.`);
  });
  broken.catch(() => undefined);
  return {
    name,
    listening: listeningPort(child),
    broken,
    async stop() {
      isStopping = true;
      child.kill('SIGTERM');
      const killTimer = setTimeout(() => child.kill('SIGKILL'), STOPS_WITHIN_MS);
      await ended;
      clearTimeout(killTimer);
    },
  };
}

/** The service logs one JSON object per line; the line with `"msg":"listening"` contains the port. */
function listeningPort(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    if (child.stdout === null) return;
    const lines = createInterface(child.stdout);
    lines.on('line', (line) => {
      const port = /"msg":"listening"/.test(line) ? /"port":(\d+)/.exec(line)?.[1] : undefined;
      if (port === undefined) return;
      resolve(Number(port));
      lines.removeAllListeners('line');
    });
  });
}

async function tailOf(logPath: string): Promise<string> {
  const text = await readFile(logPath, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-15).join('\n');
}

function usualOrAnyPort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer()
      .once('error', () => resolve(0))
      .listen(USUAL_PORT, '127.0.0.1', () => probe.close(() => resolve(USUAL_PORT)));
  });
}
