import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { NO_GATEWAY, type RunningS3, startS3, versityGateway } from 'local-s3';

const INGEST_API = path.join(import.meta.dirname, '../apps/ingest-api/bin/ingest-api.js');
const OTHER_SERVER = path.join(import.meta.dirname, 'other-server.ts');

const TUSD_VERSION = 'v2.9.1';
const BUILD_WITHIN_MS = 10 * 60_000;

export interface ServerProcess {
  readonly url: string;
  stop(): Promise<void>;
}

/** Our real service, on a migrated database, and a token that may push and read everything. */
export async function startService(
  dataDir: string,
  databaseUrl: string,
  store: Readonly<Record<string, string>> = { INGEST_STORE: dataDir },
): Promise<{ readonly server: ServerProcess; readonly token: string }> {
  const env = {
    ...process.env,
    DATABASE_URL: databaseUrl,
    ...store,
    INGEST_PORT: '0',
    // The benchmark sends the requests of many clients with one token, so its rate limit is raised.
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
  return { server, token: stdout.trimEnd().split('\n').at(-1) ?? '' };
}

export async function startBucket(dir: string): Promise<RunningS3> {
  const binary = await versityGateway();
  if (binary === undefined) throw new Error(NO_GATEWAY);
  return startS3({ binary, dataDir: path.join(dir, 's3') });
}

/** @tus/server with @tus/s3-store. */
export function startS3Tus({ endpoint, bucketDir, env }: RunningS3): Promise<ServerProcess> {
  return startServer({
    name: 's3-tus',
    command: process.execPath,
    args: [OTHER_SERVER, 's3-tus', path.basename(bucketDir), endpoint],
    env: { ...process.env, ...env },
    portOf: Number,
  });
}

/** One of the servers of other-server.ts. */
export function startOtherServer(kind: string, dataDir: string, databaseUrl: string): Promise<ServerProcess> {
  const args = [OTHER_SERVER, kind, dataDir, databaseUrl];
  return startServer({ name: kind, command: process.execPath, args, portOf: Number });
}

/** @returns null when tusd cannot be built here; the reason is printed. */
export async function startTusd(dataDir: string): Promise<ServerProcess | null> {
  const binary = await tusdBinary();
  if (binary === null) return null;
  return startServer({
    name: 'tusd',
    command: binary,
    args: ['-host', '127.0.0.1', '-port', '0', '-upload-dir', dataDir],
    portOf: (line) => {
      const port = /upload files to: http:\/\/127\.0\.0\.1:(\d+)\//.exec(line)?.[1];
      return port === undefined ? undefined : Number(port);
    },
  });
}

/** Builds tusd by `go install` into the user's cache, unless it is there already. */
async function tusdBinary(): Promise<string | null> {
  const cache = process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache');
  const dir = path.join(cache, 'score-ingest-bench', `tusd-${TUSD_VERSION}`);
  const binary = path.join(dir, 'tusd');
  const isBuilt = await access(binary).then(
    () => true,
    () => false,
  );
  if (isBuilt) return binary;
  console.log(`Building tusd ${TUSD_VERSION} with go install; later runs use the same binary.`);
  await mkdir(dir, { recursive: true });
  try {
    await promisify(execFile)('go', ['install', `github.com/tus/tusd/v2/cmd/tusd@${TUSD_VERSION}`], {
      env: { ...process.env, GOBIN: dir },
      timeout: BUILD_WITHIN_MS,
    });
    return binary;
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'Go is not installed' : String(error);
    console.log(`tusd is left out, because it could not be built: ${reason}.`);
    return null;
  }
}

interface ServerCommand {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** The port, from one of the lines that the server prints; undefined for every other line. */
  portOf(line: string): number | undefined;
}

/** Starts a server as a process, so that it shares no thread with the sender. */
async function startServer(server: ServerCommand): Promise<ServerProcess> {
  const { name, command, args, env = process.env, portOf } = server;
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) {
    const port = portOf(line);
    if (port === undefined) continue;
    child.stdout.resume();
    return {
      url: `http://127.0.0.1:${port}`,
      async stop() {
        child.kill('SIGTERM');
        if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      },
    };
  }
  throw new Error(`${name} ended before it listened; its error is above.`);
}
