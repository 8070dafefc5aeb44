/**
 * The effect of each PostgreSQL setting on a load: the same load by a real loader, each on a new server, with one setting
 * changed from what docs/operations.md recommends.
 *
 *   node bench/settings.ts [--rows 5000000] [--rounds 3] [--only wal_level,max_wal_size]
 *
 * The best round counts, because other programs can only make a round slower. 1.20 against the recommended settings
 * means that the load takes 20 % longer. WAL and checkpoints are those of the load alone.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { makeBenchDir, startBenchDatabase } from './database.ts';
import { loadOnce } from './loader.ts';
import { quietMachine } from './quiet-machine.ts';
import { describeMachine, formatMachine, formatTable, median } from './result.ts';
import { type ScoreFile, writeScoreFile } from './score-file.ts';

/**
 * `wal_level` is `replica`, because most installations have replicas or an archive. The last one is a setting of the
 * loader. lz4 is missing from `CHANGES`, because the server of the npm package does not support it.
 */
const RECOMMENDED: Readonly<Record<string, string>> = {
  wal_level: 'replica',
  max_wal_senders: '10',
  shared_buffers: '1GB',
  max_wal_size: '16GB',
  checkpoint_timeout: '15min',
  wal_compression: 'off',
  synchronous_commit: 'on',
  max_parallel_maintenance_workers: '2',
  INGEST_MAINTENANCE_WORK_MEM: '128MB',
};

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
  },
});
const rows = Number(values.rows);
/** About half of the load's WAL, as 4 GB are for 120 million rows. */
const SHORT_OF_WAL = `${Math.round((rows / 1e6) * 32)}MB`;

const CHANGES: readonly (readonly [string, Readonly<Record<string, string>>])[] = [
  ['as recommended', {}],
  ['wal_level = minimal', { wal_level: 'minimal', max_wal_senders: '0' }],
  [`max_wal_size = ${SHORT_OF_WAL}`, { max_wal_size: SHORT_OF_WAL, min_wal_size: '32MB' }],
  ['wal_compression = pglz', { wal_compression: 'pglz' }],
  ['synchronous_commit = off', { synchronous_commit: 'off' }],
  ['shared_buffers = 128MB', { shared_buffers: '128MB' }],
  ['max_parallel_maintenance_workers = 0', { max_parallel_maintenance_workers: '0' }],
  ['INGEST_MAINTENANCE_WORK_MEM = 512MB', { INGEST_MAINTENANCE_WORK_MEM: '512MB' }],
  ['INGEST_MAINTENANCE_WORK_MEM = 16MB', { INGEST_MAINTENANCE_WORK_MEM: '16MB' }],
];

interface Result {
  readonly seconds: number;
  readonly walMb: number;
  readonly checkpoints: number;
}

const wanted = values.only?.split(',');
const changes = CHANGES.filter(
  ([label], index) => index === 0 || wanted === undefined || wanted.some((name) => label.startsWith(name)),
);

let machine: string | undefined;
const dir = await makeBenchDir();
try {
  const jsonPath = path.join(dir, 'scores.jsonl');
  const file = await writeScoreFile(jsonPath, rows, 'random');
  const results = new Map<string, Result[]>();
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    for (const [label, change] of changes) {
      const result = await loadWith(jsonPath, file, { ...RECOMMENDED, ...change });
      results.set(label, [...(results.get(label) ?? []), result]);
      console.log(`  round ${round}: ${result.seconds.toFixed(2)} s  ${label}`);
    }
  }
  print(results);
} finally {
  await rm(dir, { recursive: true, force: true });
}

async function loadWith(
  jsonPath: string,
  file: ScoreFile,
  { INGEST_MAINTENANCE_WORK_MEM = '128MB', ...settings }: Record<string, string>,
): Promise<Result> {
  const database = await startBenchDatabase(settings);
  try {
    machine ??= formatMachine(await describeMachine(database.version));
    await database.client.query('CHECKPOINT');
    await quietMachine([jsonPath]);
    const before = await walPosition();
    const data = { jsonPath, file };
    const { seconds } = await loadOnce(database, data, 'settings', INGEST_MAINTENANCE_WORK_MEM);
    const after = await walPosition();
    return {
      seconds,
      walMb: after.walMb - before.walMb,
      checkpoints: after.checkpoints - before.checkpoints,
    };
  } finally {
    await database.stop();
  }

  async function walPosition() {
    const { rows } = await database.client.query<{ wal: number; checkpoints: number }>(
      `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal,
              (SELECT (num_timed + num_requested)::int FROM pg_stat_checkpointer) AS checkpoints`,
    );
    const [row] = rows;
    if (row === undefined) throw new Error('PostgreSQL did not return its WAL position.');
    return { walMb: row.wal / 1e6, checkpoints: row.checkpoints };
  }
}

function print(results: ReadonlyMap<string, readonly Result[]>): void {
  const best = (list: readonly Result[]) => Math.min(...list.map(({ seconds }) => seconds));
  const recommended = best(results.get('as recommended') ?? []);
  const table = {
    title: `Load of ${rows} rows, random keys`,
    columns: ['setting', 'best s', 'against recommended', 'MB of WAL', 'checkpoints'],
    rows: [...results].map(([label, list]) => [
      label,
      best(list).toFixed(2),
      (best(list) / recommended).toFixed(2),
      median(list.map(({ walMb }) => walMb)).toFixed(0),
      median(list.map(({ checkpoints }) => checkpoints)).toFixed(0),
    ]),
  };
  console.log(`\n${machine}\n\n${formatTable(table)}`);
}
