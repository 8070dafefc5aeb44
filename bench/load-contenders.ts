import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import type { RunningS3 } from 'local-s3';
import type pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL, createScoreLineScanner, KeyOrder } from 'score-lines';
import type { BenchDatabase } from './database.ts';
import { loadOnce } from './loader.ts';
import type { BenchPython } from './python.ts';
import { ATTRIBUTES, type DataSet, type ScoreFile } from './score-file.ts';

/** The loader's default; the same for all contenders. */
const MAINTENANCE_WORK_MEM = '128MB';

/** The same rows twice: as JSON Lines, and as COPY text for contenders that do not parse JSON. */
export interface LoadData {
  readonly jsonPath: string;
  readonly textPath: string;
  readonly file: ScoreFile;
  readonly set: DataSet;
}

export interface LoadTurn {
  readonly seconds: number;
  /** Of a contender that loads only the first rows of the file. */
  readonly rows?: number;
  /** Unknown for some contenders. The rest of `seconds` is COMMIT and everything else. */
  readonly phases?: { readonly copySeconds: number; readonly keySeconds: number };
  readonly peakResidentMb?: number;
}

export interface LoadContender {
  readonly name: string;
  /** The name in tables. */
  readonly label: string;
  /** Loads once, and leaves the database as it was. */
  run(round: number): Promise<LoadTurn>;
}

const TABLE = `CREATE TABLE contender (score double precision NOT NULL, revision_id integer NOT NULL DEFAULT 1 CHECK (revision_id = 1),
  pk text COLLATE "C" NOT NULL, attributes jsonb)`;
const KEY = 'ALTER TABLE contender ADD PRIMARY KEY (pk)';
const ROWS_PER_INSERT = 1_000;
const CHUNK_BYTES = 1024 * 1024;

/** Our load with every check, by a real loader process. */
export function ours(database: BenchDatabase, data: LoadData): LoadContender {
  return {
    name: 'ours',
    label: 'score-ingest, every check on',
    run: (round) => loadOnce(database, data, `round ${round}`, MAINTENANCE_WORK_MEM),
  };
}

/** The same load from a bucket of versitygw. */
export function oursFromS3(database: BenchDatabase, data: LoadData, s3: RunningS3): LoadContender {
  return {
    name: 'oursFromS3',
    label: 'score-ingest from S3 instead of a folder',
    run: (round) => loadOnce(database, data, `round ${round} from S3`, MAINTENANCE_WORK_MEM, s3),
  };
}

/** The same load when the model's contract declares the attributes, so that those of each line are checked. */
export function oursDeclared(database: BenchDatabase, data: LoadData): LoadContender {
  const setContract = (contract: unknown) =>
    database.client.query(
      `INSERT INTO ingest.model (name, contract) VALUES ('bench', $1) ON CONFLICT (name) DO UPDATE SET contract = $1`,
      [JSON.stringify(contract)],
    );
  return {
    name: 'oursDeclared',
    label: 'score-ingest, with the attributes declared in the contract',
    async run(round) {
      await setContract({ attributes: ATTRIBUTES });
      try {
        return await loadOnce(database, data, `round ${round} declared`, MAINTENANCE_WORK_MEM);
      } finally {
        await setContract({});
      }
    },
  };
}

/**
 * Our scanner, key order and COPY without sha256, profile, gates and records. The difference to `ours` is the cost of
 * these.
 */
export function uncheckedLoad({ client }: BenchDatabase, data: LoadData): LoadContender {
  const copy = `COPY contender (${COPY_COLUMNS.join(', ')}) FROM STDIN (FORMAT binary, FREEZE)`;
  return {
    name: 'unchecked',
    label: 'the same scan and COPY without hash, profile, gates and records',
    run: () =>
      timeLoad(client, [
        // As in the loader: no I/O workers, and one piece is sent while the next one is scanned.
        ['other', 'SET LOCAL effective_io_concurrency = 0; SET LOCAL maintenance_io_concurrency = 0'],
        [
          'copy',
          () =>
            pipeline(
              Readable.from(uncheckedRows(data.jsonPath), { highWaterMark: 1 }),
              client.query(copyFrom(copy)),
            ),
        ],
        ['key', `${KEY} WITH (fillfactor = 100)`],
      ]),
  };
}

async function* uncheckedRows(jsonPath: string): AsyncGenerator<Buffer> {
  const scanner = createScoreLineScanner({
    onReject: ({ line, detail }) => {
      throw new Error(`The scanner rejected line ${line} of the benchmark: ${detail}`);
    },
  });
  const order = new KeyOrder();
  yield COPY_HEAD;
  for await (const chunk of createReadStream(jsonPath, { highWaterMark: CHUNK_BYTES }))
    yield order.sort(scanner.scan(chunk));
  yield order.sort(scanner.finish());
  yield COPY_TAIL;
}

/** The limit: the server itself reads COPY text, without network and JSON. */
export function serverCopy(database: BenchDatabase, { textPath }: LoadData): LoadContender {
  return serverReads(database, 'serverCopy', '(a) COPY FROM file by the server, FREEZE, key after', [
    ['copy', `${copyFromFile(textPath)} WITH (FORMAT text, FREEZE)`],
    ['key', KEY],
  ]);
}

/** What most people write: the table has its key before the rows arrive. */
export function copyIntoKey(database: BenchDatabase, { textPath }: LoadData): LoadContender {
  return serverReads(database, 'copyIntoKey', '(c) COPY FROM file into a table that has its key', [
    ['key', KEY],
    ['copy', `${copyFromFile(textPath)} WITH (FORMAT text)`],
  ]);
}

/** COPY FROM a file. The server runs as another user, which must be able to read the file. */
function serverReads(
  { client, dir }: BenchDatabase,
  name: string,
  label: string,
  steps: readonly Step[],
): LoadContender {
  return {
    name,
    label,
    async run() {
      await chmod(dir, 0o711);
      return timeLoad(client, steps);
    },
  };
}

function copyFromFile(textPath: string): string {
  return `COPY contender (score, pk, attributes) FROM '${textPath}'`;
}

type Phase = 'copy' | 'key' | 'other';
type Step = readonly [phase: Phase, step: string | (() => Promise<unknown>)];

/** Creates the table, runs the steps in order, commits, and drops the table. */
async function timeLoad(client: pg.Client, steps: readonly Step[]): Promise<LoadTurn> {
  const phases = { copy: 0, key: 0, other: 0 };
  const startedMs = performance.now();
  await client.query(`BEGIN; SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}'; ${TABLE}`);
  for (const [phase, step] of steps) {
    const stepStartedMs = performance.now();
    await (typeof step === 'string' ? client.query(step) : step());
    phases[phase] += (performance.now() - stepStartedMs) / 1000;
  }
  await client.query('COMMIT');
  const seconds = (performance.now() - startedMs) / 1000;
  await client.query('DROP TABLE contender');
  return { seconds, phases: { copySeconds: phases.copy, keySeconds: phases.key } };
}

/** psql sends COPY text over the network. */
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
${KEY};
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

/** `JSON.parse` of each line and multi-row INSERTs, with the same driver. */
export function multiRowInserts({ client }: BenchDatabase, data: LoadData): LoadContender {
  const values = (count: number) =>
    Array.from({ length: count }, (_, i) => `($${i * 2 + 1}, $${i * 2 + 2})`).join(', ');
  const insert = (count: number) => `INSERT INTO contender (score, pk) VALUES ${values(count)}`;
  const fullInsert = { name: 'insert_many', text: insert(ROWS_PER_INSERT) };
  const insertAll = async () => {
    let batch: string[] = [];
    for await (const line of createInterface({ input: createReadStream(data.jsonPath) })) {
      const { pk, score } = JSON.parse(line) as { pk: string; score: string };
      batch.push(score, pk);
      if (batch.length < ROWS_PER_INSERT * 2) continue;
      await client.query({ ...fullInsert, values: batch });
      batch = [];
    }
    if (batch.length > 0) await client.query(insert(batch.length / 2), batch);
  };
  return {
    name: 'multiRowInserts',
    label: `(d) INSERTs of ${ROWS_PER_INSERT} rows from JSON.parse`,
    run: () =>
      timeLoad(client, [
        ['copy', insertAll],
        ['key', KEY],
      ]),
  };
}

const PYTHON = [
  {
    name: 'duckdb',
    label: '(e) DuckDB: read_json, INSERT through its PostgreSQL extension, key after',
    rowsMax: Infinity,
  },
  {
    name: 'psycopg',
    label: '(f) psycopg and orjson: COPY FREEZE of binary rows, key after',
    rowsMax: Infinity,
  },
  // 90 times as slow as the others: a million rows show it.
  { name: 'dlt', label: '(g) dlt: a pipeline with its defaults, key after', rowsMax: 1_000_000 },
] as const;
export const PYTHON_NAMES: readonly string[] = PYTHON.map(({ name }) => name);

/** What teams that work in Python use. The time is that of the load, without the start of Python and its imports. */
export function pythonLoads(
  { client, url }: BenchDatabase,
  data: LoadData,
  python: BenchPython,
): LoadContender[] {
  return PYTHON.map(({ name, label, rowsMax }) => ({
    name,
    label,
    async run() {
      const rows = Math.min(rowsMax, data.file.rows);
      const job = {
        url,
        json: data.jsonPath,
        rows,
        set: data.set,
        table: TABLE,
        key: KEY,
        memory: MAINTENANCE_WORK_MEM,
      };
      try {
        const turn = await python.run(name, job);
        const table = name === 'dlt' ? 'contender_dlt.contender' : 'contender';
        const { rows: counts } = await client.query(`SELECT count(*)::float8 AS rows FROM ${table}`);
        if (counts[0]?.rows !== rows) throw new Error(`${name} loaded ${counts[0]?.rows} of ${rows} rows.`);
        return { rows, ...turn };
      } finally {
        await client.query(
          'DROP TABLE IF EXISTS contender; DROP SCHEMA IF EXISTS contender_dlt, contender_dlt_staging CASCADE',
        );
      }
    },
  }));
}
