import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { access, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
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
 * two). Undefined where there is no Go 1.25 to build it with, or where that fails: the reason is printed.
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
  } catch (error) {
    console.log(`versitygw ${VERSION} could not be built: ${(error as Error).message}`);
    return undefined;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/** Why a test is skipped, or a command refused. */
export const NO_GATEWAY = `There is no versitygw ${VERSION} here, and no Go ${LEAST_GO} to build it with.`;

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

let forTests: Promise<RunningS3 | undefined> | undefined;

/**
 * The server that the tests of this process share; it ends with the process. Undefined, with a line, where there is none. Its
 * credentials are in the environment of the process from then on.
 */
export function testS3(): Promise<RunningS3 | undefined> {
  forTests ??= (async () => {
    const binary = await versityGateway();
    if (binary === undefined) {
      console.log(`    ${NO_GATEWAY} The tests that need S3 are skipped.`);
      return undefined;
    }
    const dataDir = mkdtempSync(path.join(tmpdir(), 'test-s3-'));
    process.once('exit', () => rmSync(dataDir, { recursive: true, force: true }));
    const s3 = await startS3({ binary, dataDir });
    process.env.AWS_ACCESS_KEY_ID = s3.accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = s3.secretAccessKey;
    return s3;
  })();
  return forTests;
}

export interface RunningS3 {
  readonly endpoint: string;
  /** Each object is a file below it. */
  readonly bucketDir: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** What a program needs to reach the bucket: its INGEST_ and AWS_ variables. */
  readonly env: Readonly<Record<string, string>>;
  /** A place of its own in the bucket, for a store that a test opens itself. */
  newLocation(): {
    readonly kind: 's3';
    readonly bucket: string;
    readonly prefix: string;
    readonly endpoint: string;
    readonly region: string;
    readonly forcePathStyle: boolean;
    readonly ca: undefined;
  };
  /** Ends the server at once. `start` starts it again at the same port. */
  kill(): Promise<void>;
  start(): Promise<void>;
}

/**
 * Starts versitygw on a folder, with one bucket and credentials of its own, on 127.0.0.1. It ends with this process.
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
  process.once('exit', () => server?.kill('SIGKILL'));

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
    server.unref(); // it does not keep this process alive
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
    bucketDir,
    accessKeyId,
    secretAccessKey,
    env: {
      INGEST_STORE: `s3://${BUCKET}`,
      INGEST_S3_ENDPOINT: endpoint,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
    },
    newLocation: () => ({
      kind: 's3',
      bucket: BUCKET,
      prefix: `${randomBytes(6).toString('hex')}/`,
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      ca: undefined,
    }),
    async kill() {
      const killed = server;
      if (killed === undefined || killed.exitCode !== null || killed.signalCode !== null) return;
      killed.ref(); // its end is waited for
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
