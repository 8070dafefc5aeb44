import path from 'node:path';
import { startPostgres } from 'local-postgres';

export interface BenchServer {
  /** As the superuser. */
  readonly url: string;
  stop(): Promise<void>;
}

const CAREFUL = { shared_buffers: '512MB', max_wal_size: '4GB', wal_level: 'minimal', max_wal_senders: '0' };

/**
 * A real PostgreSQL with settings that a careful operator would choose, under `dir`. BENCH_SERVER_URL, the address of
 * a superuser, names another to measure on; (a) and (c) need one that can read files of this machine.
 */
export async function startBenchServer(
  dir: string,
  settings: Record<string, string> = {},
): Promise<BenchServer> {
  const given = process.env.BENCH_SERVER_URL;
  if (given && Object.keys(settings).length > 0)
    throw new Error(
      "Settings can be measured on a server of the benchmark's own only: unset BENCH_SERVER_URL.",
    );
  if (given) return { url: given, stop: async () => {} };
  const server = await startPostgres({
    dataDir: path.join(dir, 'postgres'),
    settings: { ...CAREFUL, ...settings },
  });
  return { url: server.superuserUrl, stop: () => server.stop() };
}
