import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import pg from 'pg';
import { waitFor } from '../support/programs.ts';
import type { ScoreFile } from '../support/score-file.ts';
import type { TestSystem } from '../support/test-system.ts';

/** What must be true of a run when its push has ended with exit code 0. */
export async function checkRun(system: TestSystem, run: string, file: ScoreFile): Promise<void> {
  const [upload] = await patiently(() =>
    system.query<{ file: string; sha256: string; state: string; publications: number; rows: number }>(
      `SELECT coalesce(u.file, u.upload_id) AS file, encode(f.sha256, 'hex') AS sha256, r.state, r.row_count::int AS rows,
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
  const stored = await readFile(join(system.workDir, 'uploads', upload.file));
  expect(createHash('sha256').update(stored).digest('hex'), `the stored file of ${run}`).to.equal(
    file.sha256,
  );
}

/** What must be true after the last run and the sweep: nothing is left that no run needs. */
export async function checkLeftovers(system: TestSystem, runs: number): Promise<void> {
  const partitions = await patiently(() =>
    system.query<{ name: string; attached: boolean }>(
      `SELECT relname AS name, relispartition AS attached FROM pg_class
       WHERE relnamespace = 'run_data'::regnamespace AND relkind = 'r'`,
    ),
  );
  expect(
    partitions.filter(({ attached }) => !attached),
    'partitions that belong to nothing',
  ).to.deep.equal([]);
  expect(partitions.length, 'partitions').to.be.at.most(runs);
  const uploads = await patiently(() =>
    system.query<{ upload_id: string }>(`SELECT upload_id FROM ingest.upload`),
  );
  const known = new Set(uploads.map(({ upload_id }) => upload_id));
  const files = await readdir(join(system.workDir, 'uploads'));
  expect(
    files.filter((name) => name !== 'store.json' && !known.has(name.slice(0, 32))),
    'files that belong to nothing',
  ).to.deep.equal([]);
  await waitFor('the release of every lock', async () => {
    const locks = await system.query(`SELECT FROM pg_locks WHERE locktype = 'advisory'`);
    return locks.length === 0;
  });
  const writers = await system.query(
    `SELECT upload_id FROM ingest.upload WHERE writer IS NOT NULL AND received_at IS NULL`,
  );
  expect(writers, 'unfinished uploads with a writer').to.deep.equal([]);
}

/** Retries, because the server may be restarting. */
function patiently<T>(work: () => Promise<T>): Promise<T> {
  return waitFor('the database', () => work().catch(() => undefined), 30_000);
}

interface ReaderLog {
  /** From now on readers may see this run, with this number of rows. */
  expect(run: string, rows: number): void;
  /** @returns the number of reads. @throws when a read returned anything but one whole run. */
  check(): number;
  stop(): void;
}

const READ_EVERY_MS = 50;

/** Reads the model's view continuously, as an application does, and reconnects after every crash of the server. */
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
    if (newest === '' && seen?.rows === 0) return; // nothing is published yet
    const run = seen?.runs?.[0] ?? '';
    const isWhole = seen?.runs?.length === 1 && seen.rows === rowsOf.get(run) && seen.keys === seen.rows;
    if (!isWhole || run < newest) faults.push(`${JSON.stringify(seen)} after ${newest}`);
    newest = run;
  };
  const loop = async () => {
    while (!isStopped) {
      await read().catch((error: { code?: string }) => {
        // 42P01 (undefined_table): no run of the model is published yet. Every other error: the server is down.
        if (error.code === '42P01') return;
        client?.end().catch(() => {});
        client = undefined;
      });
      await delay(READ_EVERY_MS);
    }
    await client?.end().catch(() => {});
  };
  void loop();
  return {
    expect: (run, rows) => rowsOf.set(run, rows),
    check() {
      if (faults.length > 0)
        throw new Error(`A reader did not see one whole run: ${faults.slice(0, 3).join('; ')}`);
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

const COMPARE_EVERY_MS = 40;

interface OffsetLog {
  /** @returns the number of comparisons. @throws when an offset was beyond the end of its file, or decreased. */
  check(): number;
  stop(): void;
}

/** Compares the recorded offset of every upload with its file, continuously: never beyond its end, never less than before. */
export function watchOffsets(databaseUrl: string, dataDir: string): OffsetLog {
  const faults: string[] = [];
  const before = new Map<string, number>();
  let compared = 0;
  let isStopped = false;
  const compare = async () => {
    for (const { upload_id, file, offset_bytes } of await recordedOffsets(databaseUrl)) {
      const offset = Number(offset_bytes);
      // A missing file was removed by retention after the query; the next query leaves it out.
      const size = await stat(join(dataDir, file)).then(
        (file) => file.size,
        () => undefined,
      );
      if (size !== undefined && size < offset)
        faults.push(`${upload_id}: ${offset} recorded, ${size} in the file`);
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
): Promise<{ upload_id: string; file: string; offset_bytes: string }[]> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'offsets' });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rows } = await client.query(
      `SELECT upload_id, coalesce(file, upload_id) AS file, offset_bytes FROM ingest.upload WHERE offset_bytes > 0 AND removed_at IS NULL
       ORDER BY created_at DESC LIMIT 5`,
    );
    return rows;
  } finally {
    await client.end().catch(() => {});
  }
}
