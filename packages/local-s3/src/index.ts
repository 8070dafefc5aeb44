import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/** It checks signatures, checksums and ranges, and is not part of what is shipped (docs/decisions/0005). */
const VERSION = '1.8.0';
const LEAST_GO = 1.25;
const BUILT_WITHIN_MS = 10 * 60_000;
const STARTED_WITHIN_MS = 20_000;
const BUCKET = 'scores';

const run = promisify(execFile);

/**
 * The path of versitygw: from the variable VERSITYGW, or from the cache of this user, where it is built once (a minute or
 * two). Undefined where there is no Go 1.25 to build it with.
 *
 * @throws the output of `go install` when that fails.
 */
export async function versityGateway(): Promise<string | undefined> {
  if (process.env.VERSITYGW) return process.env.VERSITYGW;
  const cache = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'score-ingest');
  const binary = path.join(cache, `versitygw-${VERSION}`, 'versitygw');
  if (await exists(binary)) return binary;
  if (!(await hasGo())) return undefined;
  await mkdir(cache, { recursive: true });
  const draft = await mkdtemp(path.join(cache, 'building-'));
  try {
    await run('go', ['install', `github.com/versity/versitygw/cmd/versitygw@v${VERSION}`], {
      env: { ...process.env, GOBIN: draft },
      timeout: BUILT_WITHIN_MS,
    });
    await mkdir(path.dirname(binary), { recursive: true });
    await rename(path.join(draft, 'versitygw'), binary);
    return binary;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/** The line for a test or a command that is skipped. */
export const NO_GATEWAY = `No versitygw ${VERSION} here, and no Go ${LEAST_GO} to build it with: what needs S3 is skipped.`;

async function hasGo(): Promise<boolean> {
  try {
    const { stdout } = await run('go', ['env', 'GOVERSION']);
    const [, major, minor] = /^go(\d+)\.(\d+)/.exec(stdout) ?? [];
    const [leastMajor, leastMinor] = String(LEAST_GO).split('.').map(Number);
    return (
      Number(major) > Number(leastMajor) ||
      (Number(major) === leastMajor && Number(minor) >= Number(leastMinor))
    );
  } catch {
    return false; // there is no Go
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

export interface RunningS3 {
  readonly endpoint: string;
  /** `s3://scores`. */
  readonly address: string;
  readonly bucket: string;
  /** Each object is a file below it. */
  readonly bucketDir: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** What a program needs to reach the bucket: its INGEST_ and AWS_ variables. */
  readonly env: Readonly<Record<string, string>>;
  /** Ends the server at once. `start` starts it again at the same port. */
  kill(): Promise<void>;
  start(): Promise<void>;
}

/**
 * Starts versitygw on a folder, with one bucket and credentials of its own, on 127.0.0.1.
 *
 * @param dataDir is created, and keeps the objects.
 */
export async function startS3({
  binary,
  dataDir,
  port,
}: {
  readonly binary: string;
  readonly dataDir: string;
  readonly port?: number;
}): Promise<RunningS3> {
  const objects = path.join(dataDir, 'objects');
  const metadata = path.join(dataDir, 'metadata'); // not every file system has extended attributes
  const bucketDir = path.join(objects, BUCKET);
  await mkdir(bucketDir, { recursive: true });
  await mkdir(metadata, { recursive: true });
  const listenPort = port ?? (await freePort());
  const endpoint = `http://127.0.0.1:${listenPort}`;
  const accessKeyId = `test${randomBytes(6).toString('hex')}`;
  const secretAccessKey = randomBytes(20).toString('hex');
  let server: ChildProcess | undefined;

  async function start(): Promise<void> {
    server = spawn(
      binary,
      [
        '--port',
        `127.0.0.1:${listenPort}`,
        '--quiet',
        '--keep-alive',
        'posix',
        '--sidecar',
        metadata,
        objects,
      ],
      {
        env: { ...process.env, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
        stdio: 'ignore',
      },
    );
    const deadlineMs = Date.now() + STARTED_WITHIN_MS;
    while (!(await answers(endpoint))) {
      if (server.exitCode !== null || Date.now() > deadlineMs)
        throw new Error(`${binary} did not start at ${endpoint} (exit code ${server.exitCode}).`);
      await delay(50);
    }
  }
  await start();
  return {
    endpoint,
    address: `s3://${BUCKET}`,
    bucket: BUCKET,
    bucketDir,
    accessKeyId,
    secretAccessKey,
    env: {
      INGEST_STORE: `s3://${BUCKET}`,
      INGEST_S3_ENDPOINT: endpoint,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
    },
    async kill() {
      const killed = server;
      if (killed === undefined || killed.exitCode !== null || killed.signalCode !== null) return;
      const ended = once(killed, 'exit');
      killed.kill('SIGKILL');
      await ended;
    },
    start,
  };
}

async function answers(endpoint: string): Promise<boolean> {
  return fetch(endpoint).then(
    () => true,
    () => false,
  );
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}
