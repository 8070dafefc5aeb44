import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';

export interface ReaderLog {
  /** A run of so many rows may be seen from now on. */
  expect(run: string, rows: number): void;
  /** @returns how often it has read. @throws when it saw anything but one whole run. */
  check(): number;
  stop(): void;
}

const EVERY_MS = 50;

/** Reads the model's view all the time, as an application does, over every crash of the server. */
export function watchReaders(databaseUrl: string): ReaderLog {
  const rowsOf = new Map<string, number>();
  let reads = 0;
  let isStopped = false;
  let newest = '';
  const faults: string[] = [];
  let client: pg.Client | undefined;

  const read = async () => {
    client ??= await connect(databaseUrl);
    const { rows } = await client.query<{ runs: string[] | null; rows: number; keys: number }>(
      'SELECT array_agg(DISTINCT run) AS runs, count(*)::int AS rows, count(DISTINCT pk)::int AS keys FROM scores.churn',
    );
    const [seen] = rows;
    reads += 1;
    if (newest === '' && seen?.rows === 0) return; // nothing was ever published
    const run = seen?.runs?.[0] ?? '';
    const isWhole = seen?.runs?.length === 1 && seen.rows === rowsOf.get(run) && seen.keys === seen.rows;
    if (!isWhole || run < newest) faults.push(`${JSON.stringify(seen)} after ${newest}`);
    newest = run;
  };
  const loop = async () => {
    while (!isStopped) {
      await read().catch((error: { code?: string }) => {
        // 42P01: no run of the model was ever published. Anything else is the server that is down.
        if (error.code === '42P01') return;
        client?.end().catch(() => {});
        client = undefined;
      });
      await delay(EVERY_MS);
    }
    await client?.end().catch(() => {});
  };
  void loop();
  return {
    expect: (run, rows) => rowsOf.set(run, rows),
    check() {
      if (faults.length > 0)
        throw new Error(`Readers saw what is not one whole run: ${faults.slice(0, 3).join('; ')}`);
      return reads;
    },
    stop() {
      isStopped = true;
    },
  };
}

async function connect(databaseUrl: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'reader' });
  client.on('error', () => {});
  await client.connect();
  return client;
}
