import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL, createScoreLineScanner, KeyOrder } from 'score-lines';
import type { BenchDatabase } from './bench-database.ts';
import { startBenchLoader } from './bench-loader.ts';
import type { ScoreFile } from './score-file.ts';

export const MAINTENANCE_WORK_MEM = '512MB';

/** The same rows twice: as JSON Lines for those who parse, as ready-made COPY text for those who do not. */
export interface LoadData {
  readonly jsonPath: string;
  readonly textPath: string;
  readonly file: ScoreFile;
}

export interface LoadContender {
  readonly name: string;
  /** How it is called in tables. */
  readonly label: string;
  /** Seconds of one load; leaves the database as it was. */
  run(round: number): Promise<{ seconds: number; peakResidentMb?: number }>;
}

const TABLE = `CREATE TABLE contender (score double precision NOT NULL, revision_id integer NOT NULL DEFAULT 1 CHECK (revision_id = 1),
  pk text COLLATE "C" NOT NULL, attributes jsonb)`;
const ROWS_PER_INSERT = 1_000;
const CHUNK_BYTES = 1024 * 1024;

/** Our load with every check on, by a real loader process. */
export function ours(database: BenchDatabase, data: LoadData): LoadContender {
  return {
    name: 'ours',
    label: 'score-ingest, every check on',
    run: (round) =>
      startBenchLoader(database, MAINTENANCE_WORK_MEM).then((loader) => loader.load(data, `round ${round}`)),
  };
}

/**
 * Our scanner, order and COPY with nothing that proves: no sha256, no profile, no gates, no records. What all of
 * those cost, it shows against `ours`.
 */
export function uncheckedLoad({ client }: BenchDatabase, data: LoadData): LoadContender {
  return {
    name: 'unchecked',
    label: 'the same scan and COPY without hash, profile, gates and records',
    async run() {
      const startedMs = performance.now();
      await client.query('BEGIN');
      await client.query(`SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}'`);
      await client.query(TABLE);
      const columns = COPY_COLUMNS.join(', ');
      const copy = client.query(copyFrom(`COPY contender (${columns}) FROM STDIN (FORMAT binary, FREEZE)`));
      // As in the loader: one piece is on its way while the next one is made.
      await pipeline(Readable.from(unprovenRows(data.jsonPath), { highWaterMark: 1 }), copy);
      await client.query('ALTER TABLE contender ADD PRIMARY KEY (pk) WITH (fillfactor = 100)');
      await client.query('COMMIT');
      const seconds = (performance.now() - startedMs) / 1000;
      await client.query('DROP TABLE contender');
      return { seconds };
    },
  };
}

async function* unprovenRows(jsonPath: string): AsyncGenerator<Buffer> {
  const scanner = createScoreLineScanner({
    onReject: ({ line, detail }) => {
      throw new Error(`The bench's own line ${line} was refused: ${detail}`);
    },
  });
  const order = new KeyOrder();
  yield COPY_HEAD;
  for await (const chunk of createReadStream(jsonPath, { highWaterMark: CHUNK_BYTES }))
    yield order.sort(scanner.scan(chunk));
  yield order.sort(scanner.finish());
  yield COPY_TAIL;
}

/** The limit: the server reads ready-made text by itself, with no network and no JSON. */
export function serverCopy(database: BenchDatabase, data: LoadData): LoadContender {
  return sqlContender(
    database,
    'serverCopy',
    '(a) COPY FROM file by the server, FREEZE, key after',
    async () => {
      await chmod(database.dir, 0o711); // the server runs as another user, and has to reach the file
      return [
        TABLE,
        `COPY contender (score, pk, attributes) FROM '${data.textPath}' WITH (FORMAT text, FREEZE)`,
        'ALTER TABLE contender ADD PRIMARY KEY (pk)',
      ];
    },
  );
}

/** What most people write: the table has its key when the rows come. */
export function copyIntoKey(database: BenchDatabase, data: LoadData): LoadContender {
  return sqlContender(
    database,
    'copyIntoKey',
    '(c) COPY FROM file into a table that has its key',
    async () => {
      await chmod(database.dir, 0o711);
      return [
        TABLE,
        'ALTER TABLE contender ADD PRIMARY KEY (pk)',
        `COPY contender (score, pk, attributes) FROM '${data.textPath}' WITH (FORMAT text)`,
      ];
    },
  );
}

function sqlContender(
  { client }: BenchDatabase,
  name: string,
  label: string,
  statements: () => Promise<string[]>,
): LoadContender {
  return {
    name,
    label,
    async run() {
      const list = await statements();
      const startedMs = performance.now();
      await client.query('BEGIN');
      await client.query(`SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}'`);
      for (const statement of list) await client.query(statement);
      await client.query('COMMIT');
      const seconds = (performance.now() - startedMs) / 1000;
      await client.query('DROP TABLE contender');
      return { seconds };
    },
  };
}

/** psql sends the ready-made text over the network. */
export function psqlCopy(database: BenchDatabase, data: LoadData): LoadContender {
  return {
    name: 'psqlCopy',
    label: '(b) psql \\copy of ready-made text, FREEZE, key after',
    async run() {
      const script = path.join(database.dir, 'copy.sql');
      await writeFile(
        script,
        `\\set ON_ERROR_STOP on
BEGIN;
SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}';
${TABLE};
\\copy contender (score, pk, attributes) FROM '${data.textPath}' WITH (FORMAT text, FREEZE)
ALTER TABLE contender ADD PRIMARY KEY (pk);
COMMIT;
`,
      );
      const startedMs = performance.now();
      await promisify(execFile)('psql', ['-X', '-q', '-f', script, database.url]);
      const seconds = (performance.now() - startedMs) / 1000;
      await database.client.query('DROP TABLE contender');
      return { seconds };
    },
  };
}

/** `JSON.parse` a line, and INSERTs of many rows, with the same driver. */
export function multiRowInserts({ client }: BenchDatabase, data: LoadData): LoadContender {
  const values = (count: number) =>
    Array.from({ length: count }, (_, i) => `($${i * 2 + 1}, $${i * 2 + 2})`).join(', ');
  const insert = (count: number) => `INSERT INTO contender (score, pk) VALUES ${values(count)}`;
  const fullInsert = { name: 'insert_many', text: insert(ROWS_PER_INSERT) };
  return {
    name: 'multiRowInserts',
    label: `(d) INSERTs of ${ROWS_PER_INSERT} rows from JSON.parse`,
    async run() {
      const startedMs = performance.now();
      await client.query('BEGIN');
      await client.query(`SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}'`);
      await client.query(TABLE);
      let batch: string[] = [];
      for await (const line of createInterface({ input: createReadStream(data.jsonPath) })) {
        const { pk, score } = JSON.parse(line) as { pk: string; score: string };
        batch.push(score, pk);
        if (batch.length < ROWS_PER_INSERT * 2) continue;
        await client.query({ ...fullInsert, values: batch });
        batch = [];
      }
      if (batch.length > 0) await client.query(insert(batch.length / 2), batch);
      await client.query('ALTER TABLE contender ADD PRIMARY KEY (pk)');
      await client.query('COMMIT');
      const seconds = (performance.now() - startedMs) / 1000;
      await client.query('DROP TABLE contender');
      return { seconds };
    },
  };
}
