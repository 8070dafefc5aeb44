import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { eventually } from './eventually.ts';

const run = promisify(execFile);

const PACKAGES = ['prometheus', 'prometheus-alertmanager'];
const UNPACKED = path.join(tmpdir(), 'ingest-monitoring-tools');
const DOWNLOADED_WITHIN_MS = 120_000;

/**
 * The programs of Prometheus: those on the PATH, or from Debian's packages, which are unpacked and not installed (they
 * would start services). Undefined, with a plain message, when there are none to be had.
 */
export async function findTool(tool: 'prometheus' | 'promtool' | 'amtool'): Promise<string | undefined> {
  const find = () => findInstalled(tool, path.join(UNPACKED, 'usr/bin'));
  return find() ?? (await unpackTools().then(find));
}

/** On the PATH, or in the folder. (Debian's Alertmanager itself needs files that only its installation brings.) */
export function findInstalled(tool: string, folder = ''): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), folder].filter((it) => it !== '');
  return folders.map((it) => path.join(it, tool)).find((file) => existsSync(file));
}

let unpacking: Promise<void> | undefined;

function unpackTools(): Promise<void> {
  unpacking ??= unpack().catch((error: Error) => {
    console.log(`    No Prometheus here (Debian: ${PACKAGES.join(', ')}): ${error.message.split('\n')[0]}`);
  });
  return unpacking;
}

async function unpack(): Promise<void> {
  const options = { cwd: UNPACKED, timeout: DOWNLOADED_WITHIN_MS };
  await mkdir(UNPACKED, { recursive: true });
  const download = () => run('apt-get', ['download', '-qq', ...PACKAGES], options);
  await download().catch(async () => {
    await run('apt-get', ['update', '-qq'], options);
    await download();
  });
  for (const file of await readdir(UNPACKED))
    if (file.endsWith('.deb')) await run('dpkg-deb', ['-x', file, '.'], options);
}

/** Starts a program that answers `/-/ready` of the address. */
export async function startTool(
  file: string,
  args: readonly string[],
  port: number,
  patienceMs: number,
): Promise<{ readonly url: string; stop(): Promise<void> }> {
  const child = spawn(file, args, { stdio: 'ignore' });
  const exited = once(child, 'exit');
  const url = `http://127.0.0.1:${port}`;
  await eventually(
    () =>
      fetch(`${url}/-/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    Boolean,
    patienceMs,
  );
  return {
    url,
    async stop() {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('No port is free on 127.0.0.1.');
  return address.port;
}
