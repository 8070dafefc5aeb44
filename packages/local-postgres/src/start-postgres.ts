import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, chown, mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { launchHost, type RunningHost } from './launch-host.ts';
import { unprivilegedCommand } from './unprivileged-command.ts';

const RETRY_FOR_MS = 15_000;
const RETRY_EVERY_MS = 250;

export interface StartOptions {
  /** Holds `cluster/` (made by initdb at the first start) and `password`. Made when it is missing. */
  dataDir: string;
  /** 0, the default, takes a free one. */
  port?: number;
  /** Remove `dataDir` when the server ends, also when that is because this process was killed. */
  temporary?: boolean;
  /** Server settings by name, as in postgresql.conf. */
  settings?: Record<string, string>;
  /** Gets the server's log as it comes. */
  log?: (chunk: string) => void;
}

export interface RunningPostgres {
  port: number;
  superuserUrl: string;
  /** The postmaster's process id. */
  pid: number;
  /** Resolves when the server has ended, for whatever reason. */
  ended: Promise<void>;
  /** Fast shutdown: open transactions are rolled back, the data is checkpointed. */
  stop(): Promise<void>;
  /** For fault tests: an abrupt end. Resolves when the postmaster is gone. */
  kill(signal: 'SIGKILL' | 'SIGQUIT'): Promise<void>;
}

/** Starts a PostgreSQL 18 on 127.0.0.1 that lives as long as this process, at most. */
export async function startPostgres(options: StartOptions): Promise<RunningPostgres> {
  const dataDir = resolve(options.dataDir);
  const unprivileged = await unprivilegedCommand();
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (unprivileged) await chown(dataDir, unprivileged.uid, unprivileged.gid);
  const password = await keptPassword(join(dataDir, 'password'));

  const deadlineMs = Date.now() + RETRY_FOR_MS;
  for (;;) {
    const port = options.port || (await freePort());
    const order = {
      kind: 'start',
      clusterDir: join(dataDir, 'cluster'),
      password,
      port,
      settings: options.settings ?? {},
      ...(options.temporary ? { removeAtEnd: dataDir } : {}),
    } as const;
    try {
      return running(await launchHost(order, unprivileged, options.log), port, password);
    } catch (error) {
      if (!mayPass(error, !options.port) || Date.now() > deadlineMs) throw error;
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

/** Left-over backends of a killed postmaster end within moments; a port chosen by us may have been taken since. */
function mayPass(error: unknown, portIsOurChoice: boolean): boolean {
  const message = error instanceof Error ? error.message : '';
  if (message.includes('pre-existing shared memory block')) return true;
  return portIsOurChoice && message.includes('Address already in use');
}

async function keptPassword(path: string): Promise<string> {
  const fresh = randomBytes(18).toString('hex');
  // 'wx': an existing password is that of the cluster beside it, and stays.
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
