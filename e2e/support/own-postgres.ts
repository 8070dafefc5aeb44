import { chown, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunningPostgres, startPostgres } from 'local-postgres';

/** A PostgreSQL server of a test's own, that may be killed. Always on the same port, as one behind a name is. */
export interface OwnPostgres {
  url: string;
  port: number;
  /** Ends at once, as `pg_ctl stop -m immediate` or a crash does, and starts again: recovery included. */
  restart(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void>;
  start(): Promise<void>;
  /** Gives a folder to the user that the server runs as. */
  own(folder: string): Promise<void>;
  stop(): Promise<void>;
}

export async function startOwnPostgres(): Promise<OwnPostgres> {
  const dataDir = await mkdtemp(join(tmpdir(), 'score-ingest-postgres-'));
  const settings = { shared_buffers: '128MB', max_connections: '100' };
  let server: RunningPostgres = await startPostgres({ dataDir, settings });
  const { port, superuserUrl } = server;
  let isRunning = true;
  async function kill(signal: 'SIGQUIT' | 'SIGKILL'): Promise<void> {
    isRunning = false;
    await server.kill(signal);
  }
  async function start(): Promise<void> {
    server = await startPostgres({ dataDir, port, settings });
    isRunning = true;
  }
  return {
    url: superuserUrl,
    port,
    kill,
    start,
    async restart(signal) {
      await kill(signal);
      await start();
    },
    async own(folder) {
      const { uid, gid } = await stat(join(dataDir, 'cluster'));
      await chown(folder, uid, gid);
    },
    async stop() {
      if (isRunning) await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
