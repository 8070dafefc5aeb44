import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

const run = promisify(execFile);
const INGEST_API = path.join(import.meta.dirname, '../apps/ingest-api/bin/ingest-api.js');

export interface BenchServer {
  readonly name: string;
  /** Where one file of that size can be sent to, in one request. */
  prepare(sizeBytes: number): Promise<{ url: string; method: string; headers: Record<string, string> }>;
  clean(): Promise<void>;
  stop(): Promise<void>;
}

const TUS = { 'tus-resumable': '1.0.0' };
const PATCH = { ...TUS, 'upload-offset': '0', 'content-type': 'application/offset+octet-stream' };

export async function startOurs(dataDir: string, databaseUrl: string): Promise<BenchServer> {
  const env = { ...process.env, DATABASE_URL: databaseUrl, INGEST_DATA_DIR: dataDir, INGEST_PORT: '0' };
  const { stdout } = await run(process.execPath, [INGEST_API, 'token', 'create', 'bench'], { env });
  const authorization = `Bearer ${stdout.trimEnd().split('\n').at(-1)}`;
  const server = await start('ours', [INGEST_API, 'serve'], env, (line) => JSON.parse(line).port);
  let files = 0;
  return {
    ...server,
    async prepare(sizeBytes) {
      files += 1;
      const metadata = Object.entries({ model: 'bench', run: `run ${files}`, filename: 'a.jsonl' })
        .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
        .join(',');
      const headers = { authorization, 'upload-length': String(sizeBytes), 'upload-metadata': metadata };
      const url = await create(`${server.url}/v1/uploads`, headers);
      return { url, method: 'PATCH', headers: { ...PATCH, authorization } };
    },
    clean: () => empty(dataDir),
  };
}

export async function startPlainPut(dataDir: string): Promise<BenchServer> {
  const server = await start('plain', [script('plain-put.ts'), dataDir], process.env, Number);
  return {
    ...server,
    prepare: async () => ({ url: `${server.url}/file`, method: 'PUT', headers: {} }),
    clean: () => empty(dataDir),
  };
}

export async function startStockTus(dataDir: string): Promise<BenchServer> {
  const server = await start('stock', [script('stock-tus.ts'), dataDir], process.env, Number);
  return {
    ...server,
    async prepare(sizeBytes) {
      const url = await create(`${server.url}/files`, { 'upload-length': String(sizeBytes) });
      return { url, method: 'PATCH', headers: PATCH };
    },
    clean: () => empty(dataDir),
  };
}

/** A process of its own, so that no server shares a thread with the sender; `portOf` reads it from its lines. */
async function start(
  name: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  portOf: (line: string) => number | undefined,
): Promise<{ name: string; url: string; stop(): Promise<void> }> {
  const child: ChildProcess = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  if (child.stdout === null) throw new Error(`${name} has no output.`);
  for await (const line of createInterface({ input: child.stdout })) {
    const port = portOf(line);
    if (port === undefined) continue;
    child.stdout.resume();
    return {
      name,
      url: `http://127.0.0.1:${port}`,
      async stop() {
        child.kill('SIGTERM');
        if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      },
    };
  }
  throw new Error(`${name} ended before it listened.`);
}

async function create(url: string, headers: Record<string, string>): Promise<string> {
  const response = await fetch(url, { method: 'POST', headers: { ...TUS, ...headers } });
  const location = response.headers.get('location');
  if (location === null) throw new Error(`POST ${url} answered ${response.status}: ${await response.text()}`);
  return new URL(location, url).href;
}

async function empty(dataDir: string): Promise<void> {
  for (const file of await readdir(dataDir)) await rm(path.join(dataDir, file));
}

function script(name: string): string {
  return path.join(import.meta.dirname, 'servers', name);
}
