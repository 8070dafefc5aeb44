import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import pg from 'pg';
import { waitFor } from '../support/programs.ts';
import type { ScoreFile } from '../support/score-file.ts';
import type { TestSystem } from '../support/test-system.ts';

/** What must be true of a run when its push has ended with exit code 0. */
export async function checkRun(system: TestSystem, run: string, file: ScoreFile): Promise<void> {
  const [upload] = await patiently(() =>
    system.query<{ names: string[]; sha256: string; state: string; publications: number; rows: number }>(
      `SELECT ${NAMES} AS names, encode(f.sha256, 'hex') AS sha256, r.state, r.row_count::int AS rows,
              (SELECT count(*)::int FROM ingest.publication p WHERE p.revision_id = r.revision_id) AS publications
       FROM ingest.run_revision r JOIN ingest.run_file f USING (revision_id) JOIN ingest.upload u USING (upload_id)
       WHERE r.run_key = $1`,
      [run],
    ),
  );
  if (upload === undefined) throw new Error(`The database has no ${run}.`);
  expect(upload, run).to.include({
    state: 'published',
    publications: 1,
    rows: file.lines,
    sha256: file.sha256,
  });
  const stored = createHash('sha256');
  for (const name of upload.names) stored.update(await system.store.read(name));
  expect(stored.digest('hex'), `what is stored of ${run}`).to.equal(file.sha256);
}

/** The file of the upload `u`, or its objects in the order of their bytes. */
const NAMES = `coalesce(
  (SELECT array_agg(s.object_key ORDER BY s.from_byte) FROM ingest.upload_segment s WHERE s.upload_id = u.upload_id),
  ARRAY[coalesce(u.file, u.upload_id)])`;

/**
 * What must be true after the last run and the sweep: nothing is left that no run needs. Waits for the sweep that a service
 * makes when it starts.
 */
export async function checkLeftovers(system: TestSystem, runs: number): Promise<void> {
  const partitions = await patiently(() =>
    system.query<{ name: string; is_loaded: boolean }>(
      `SELECT relname AS name, EXISTS (
         SELECT FROM ingest.run_revision r
         WHERE c.relname = r.model || '$' || r.revision_id AND r.row_count IS NOT NULL) AS is_loaded
       FROM pg_class c WHERE relnamespace = 'run_data'::regnamespace AND relkind = 'r'`,
    ),
  );
  // Those that readers do not see are not attached, and belong to a revision that was loaded.
  expect(
    partitions.filter(({ is_loaded }) => !is_loaded),
    'partitions that belong to nothing',
  ).to.deep.equal([]);
  expect(partitions.length, 'partitions').to.be.at.most(runs);
  let differences: string[] = [];
  await waitFor('the sweep', async () => {
    differences = await patiently(() => storeDifferences(system));
    return differences.length === 0;
  }).catch((error: Error) => {
    throw new Error(`Store and database differ: ${differences.slice(0, 5).join('; ')}`, { cause: error });
  });
  await waitFor('the release of every lock', async () => {
    const locks = await system.query(`SELECT FROM pg_locks WHERE locktype = 'advisory'`);
    return locks.length === 0;
  });
  const writers = await system.query(
    `SELECT upload_id FROM ingest.upload WHERE writer IS NOT NULL AND received_at IS NULL`,
  );
  expect(writers, 'unfinished uploads with a writer').to.deep.equal([]);
}

/** Files or objects that nothing names, and segments that have no object, or no upload that needs them. */
async function storeDifferences({ query, store }: TestSystem): Promise<string[]> {
  const stored = await store.names();
  const named = await query<{ name: string }>(
    `SELECT coalesce(file, upload_id) AS name FROM ingest.upload UNION SELECT object_key FROM ingest.upload_segment`,
  );
  const names = new Set(named.map(({ name }) => name));
  const differences = stored.filter((name) => !names.has(name)).map((name) => `${name} belongs to nothing`);
  const segments = await query<{ object_key: string; bytes: number; is_needed: boolean }>(
    `SELECT s.object_key, s.bytes, u.upload_id IS NOT NULL AND u.file_removed_at IS NULL AS is_needed
     FROM ingest.upload_segment s LEFT JOIN ingest.upload u USING (upload_id)`,
  );
  for (const { object_key, bytes, is_needed } of segments) {
    if (!is_needed) differences.push(`${object_key} has no upload that needs it`);
    const found = await store.bytesOf(object_key);
    if (found !== bytes) differences.push(`${object_key} has ${found} instead of ${bytes} bytes`);
  }
  return differences;
}

/** Retries, because the server may be restarting. */
function patiently<T>(work: () => Promise<T>): Promise<T> {
  return waitFor('the database', () => work().catch(() => undefined), 30_000);
}

interface ReaderLog {
  /** From now on readers may see this run, which has the lines of this file. */
  expect(run: string, file: ScoreFile): void;
  /** A push has called the run published: the standby must show it, at once unless it was killed since the last call. */
  mustShowOnStandby(run: string): Promise<void>;
  /** Until a standby that was killed has replayed its own log again, it may show an older run than before. */
  standbyKilled(): void;
  /** @throws when a read returned anything but one whole run. */
  check(): ReaderReport;
  stop(): void;
}

interface ReaderReport {
  readonly reads: number;
  readonly standbyReads: number;
  /** Transactions of a second or more on the standby that ended regularly. */
  readonly standbyLongReads: number;
  /** Queries and sessions that the standby cancelled, because they kept it from replaying. */
  readonly standbyCancels: number;
}

interface Reading {
  readonly runs: string[] | null;
  readonly times: number;
  readonly published_at: string;
  readonly rows: number;
  readonly keys: number;
  readonly thousandths: number;
}

const READ_EVERY_MS = 50;
const LONG_READ_SECONDS = 1.5;
const READ = `
  SELECT array_agg(DISTINCT run) AS runs, count(DISTINCT published_at)::int AS times, min(published_at)::text AS published_at,
         count(*)::int AS rows, count(DISTINCT pk)::int AS keys, round(sum(score) * 1000) AS thousandths
  FROM scores.churn`;

/**
 * Reads the model's view continuously, as applications do, on the primary and on its hot standby, there also in transactions that
 * last. Reconnects after every crash of a server.
 */
export function watchReaders(primaryUrl: string, standbyUrl: string): ReaderLog {
  const files = new Map<string, ScoreFile>();
  const publishedAt = new Map<string, string>();
  const faults: string[] = [];
  const report = { reads: 0, standbyReads: 0, standbyLongReads: 0, standbyCancels: 0 };
  const newest = { primary: '', standby: '', 'standby, long': '' };
  let isStopped = false;
  let wasKilled = false;

  /** One whole run, with the same time of publication on every server, and never an older one than before. */
  const judge = (reader: keyof typeof newest, seen: Reading | undefined) => {
    const run = seen?.runs?.[0] ?? '';
    if (newest[reader] === '' && seen?.rows === 0) return; // nothing is published yet
    const file = files.get(run);
    const isWhole =
      seen?.runs?.length === 1 &&
      seen.times === 1 &&
      seen.rows === file?.lines &&
      seen.keys === seen.rows &&
      seen.thousandths === file.thousandths &&
      seen.published_at === (publishedAt.get(run) ?? seen.published_at);
    if (!isWhole || run < newest[reader])
      faults.push(`${reader}: ${JSON.stringify(seen)} after ${newest[reader]}`);
    else publishedAt.set(run, seen.published_at);
    newest[reader] = run;
  };

  const readContinuously = async (url: string, read: (client: pg.Client) => Promise<void>) => {
    let client: pg.Client | undefined;
    while (!isStopped) {
      try {
        client ??= await connect(url);
        await read(client);
      } catch (error) {
        const { code, message = '' } = error as { code?: string; message?: string };
        if (/conflict with recovery/.test(message)) report.standbyCancels += 1;
        // 42P01 (undefined_table): no run of the model is published yet. Every other error: the server is down.
        if (code === '42P01') await client?.query('ROLLBACK').catch(() => {});
        else {
          client?.end().catch(() => {});
          client = undefined;
        }
      }
      await delay(READ_EVERY_MS);
    }
    await client?.end().catch(() => {});
  };
  const readOnce = async (client: pg.Client) => (await client.query<Reading>(READ)).rows[0];

  void readContinuously(primaryUrl, async (client) => {
    judge('primary', await readOnce(client));
    report.reads += 1;
  });
  void readContinuously(standbyUrl, async (client) => {
    judge('standby', await readOnce(client));
    report.standbyReads += 1;
  });
  void readContinuously(standbyUrl, async (client) => {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const first = await readOnce(client);
    judge('standby, long', first);
    await client.query('SELECT pg_sleep($1)', [LONG_READ_SECONDS]);
    const second = await readOnce(client);
    await client.query('COMMIT');
    if (JSON.stringify(first) !== JSON.stringify(second))
      faults.push(`a transaction read ${JSON.stringify(first)}, then ${JSON.stringify(second)}`);
    report.standbyLongReads += 1;
  });

  return {
    expect: (run, file) => files.set(run, file),
    async mustShowOnStandby(run) {
      const shows = async () => {
        const client = await connect(standbyUrl);
        try {
          return (await readOnce(client))?.runs?.[0] === run;
        } finally {
          await client.end().catch(() => {});
        }
      };
      if (wasKilled) await waitFor(`${run} on the standby`, () => shows().catch(() => false));
      else if (!(await shows()))
        throw new Error(`A push called ${run} published, and the standby does not show it.`);
      wasKilled = false;
    },
    standbyKilled() {
      wasKilled = true;
      newest.standby = '';
      newest['standby, long'] = '';
    },
    check() {
      if (faults.length > 0)
        throw new Error(`A reader did not see one whole run: ${faults.slice(0, 3).join('; ')}`);
      return { ...report };
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

const COMPARE_EVERY_MS = 40;

interface OffsetLog {
  /** @returns the number of comparisons. @throws when an offset was beyond the end of its file, or decreased. */
  check(): number;
  stop(): void;
}

/** Compares the recorded offset of every upload with its file, continuously: never beyond its end, never less than before. */
export function watchOffsets({ databaseUrl, store }: TestSystem): OffsetLog {
  const faults: string[] = [];
  const before = new Map<string, number>();
  let compared = 0;
  let isStopped = false;
  const compare = async () => {
    for (const { upload_id, names, offset_bytes } of await recordedOffsets(databaseUrl)) {
      const offset = Number(offset_bytes);
      const sizes = await Promise.all(names.map((name) => store.bytesOf(name)));
      // A file that is missing got another name after the query; the key of an object never changes.
      const isRenamed = sizes[0] === undefined && !names[0]?.includes('/');
      const size = sizes.reduce<number>((sum, bytes = 0) => sum + bytes, 0);
      if (!isRenamed && size < offset) faults.push(`${upload_id}: ${offset} recorded, ${size} stored`);
      if (offset < (before.get(upload_id) ?? 0)) faults.push(`${upload_id}: decreased to ${offset}`);
      before.set(upload_id, offset);
      compared += 1;
    }
  };
  const loop = async () => {
    while (!isStopped) {
      await compare().catch(() => {}); // the server is down
      await delay(COMPARE_EVERY_MS);
    }
  };
  void loop();
  return {
    check() {
      if (faults.length > 0) throw new Error(`Recorded offsets were wrong: ${faults.slice(0, 3).join('; ')}`);
      return compared;
    },
    stop() {
      isStopped = true;
    },
  };
}

async function recordedOffsets(
  databaseUrl: string,
): Promise<{ upload_id: string; names: string[]; offset_bytes: string }[]> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'offsets' });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rows } = await client.query(
      `SELECT upload_id, ${NAMES} AS names, offset_bytes FROM ingest.upload u WHERE offset_bytes > 0 AND removed_at IS NULL
       ORDER BY created_at DESC LIMIT 5`,
    );
    return rows;
  } finally {
    await client.end().catch(() => {});
  }
}
