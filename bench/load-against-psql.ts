/**
 * Our load, every check on, against `psql \copy` of the same rows as ready-made text: same server, same shape of
 * table, FREEZE, key built after, one transaction. In turn, in one run; prints seconds and the ratio.
 *
 *   node bench/load-against-psql.ts [--rows 5000000] [--rounds 3] [--order random|sorted]
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { link, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { migrateToLatest } from 'db-schema';
import { startPostgres } from 'local-postgres';
import pg from 'pg';
import { type KeyOrder, type ScoreFile, writeCopyText, writeScoreFile } from './score-file.ts';

const run = promisify(execFile);
const MAINTENANCE_WORK_MEM = '512MB';
const INGEST_API = path.join(import.meta.dirname, '../apps/ingest-api/bin/ingest-api.js');

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '5000000' },
    rounds: { type: 'string', default: '3' },
    order: { type: 'string', default: 'random' },
  },
});
const rows = Number(values.rows);
const order: KeyOrder = values.order === 'sorted' ? 'sorted' : 'random';

const dir = await mkdtemp(path.join(process.env.BENCH_DIR ?? tmpdir(), 'ingest-bench-'));
const dataDir = path.join(dir, 'uploads');
await mkdir(dataDir);
console.log(
  `${rows} rows, ${order} keys, ${values.rounds} rounds; files and server are warm in the page cache`,
);
const scores = await writeScoreFile(path.join(dir, 'scores.jsonl'), rows, order);
await writeCopyText(path.join(dir, 'rows.txt'), rows, order);
const server = await startPostgres({
  dataDir: path.join(dir, 'postgres'),
  settings: { shared_buffers: '512MB', max_wal_size: '4GB', wal_level: 'minimal', max_wal_senders: '0' },
});
await migrateToLatest(server.superuserUrl);
const client = new pg.Client({ connectionString: server.superuserUrl });
await client.connect();
try {
  await client.query(`INSERT INTO ingest.model (name) VALUES ('bench')`);
  const ours: number[] = [];
  const psql: number[] = [];
  let peakKb = 0;
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    await client.query('CHECKPOINT');
    psql.push(await psqlCopy(round));
    await client.query('CHECKPOINT');
    const { seconds, residentKb } = await ourLoad(client, round, scores);
    ours.push(seconds);
    peakKb = Math.max(peakKb, residentKb);
    console.log(
      `round ${round}: ours ${ours.at(-1)?.toFixed(2)} s, psql ${psql.at(-1)?.toFixed(2)} s, ratio ${((ours.at(-1) ?? 0) / (psql.at(-1) ?? 1)).toFixed(3)}`,
    );
  }
  const ratios = ours.map((seconds, i) => seconds / (psql[i] ?? 1));
  console.log(
    `median: ours ${median(ours).toFixed(2)} s, psql ${median(psql).toFixed(2)} s, ratio ${median(ratios).toFixed(3)}; peak resident of the loader ${Math.round(peakKb / 1024)} MB`,
  );
} finally {
  await client.end();
  await server.stop();
  await rm(dir, { recursive: true, force: true });
}

async function psqlCopy(round: number): Promise<number> {
  const script = path.join(dir, 'copy.sql');
  await writeFile(
    script,
    `\\set ON_ERROR_STOP on
BEGIN;
SET LOCAL maintenance_work_mem = '${MAINTENANCE_WORK_MEM}';
CREATE TABLE by_psql (score double precision NOT NULL, revision_id integer NOT NULL DEFAULT ${round} CHECK (revision_id = ${round}),
  pk text COLLATE "C" NOT NULL, attributes jsonb);
\\copy by_psql (score, pk, attributes) FROM '${path.join(dir, 'rows.txt')}' WITH (FORMAT text, FREEZE)
ALTER TABLE by_psql ADD PRIMARY KEY (pk);
COMMIT;
`,
  );
  const startedMs = performance.now();
  await run('psql', ['-X', '-q', '-f', script, server.superuserUrl]);
  const seconds = (performance.now() - startedMs) / 1000;
  await run('psql', ['-X', '-q', '-c', 'DROP TABLE by_psql', server.superuserUrl]);
  return seconds;
}

/** A revision as if it had just been received, loaded by the real loader process. */
async function ourLoad(
  client: pg.Client,
  round: number,
  file: ScoreFile,
): Promise<{ seconds: number; residentKb: number }> {
  const uploadId = randomBytes(16).toString('hex');
  await link(path.join(dir, 'scores.jsonl'), path.join(dataDir, uploadId));
  const loader = spawn(process.execPath, [INGEST_API, 'load'], {
    env: {
      ...process.env,
      DATABASE_URL: server.superuserUrl,
      INGEST_DATA_DIR: dataDir,
      INGEST_LOG_LEVEL: 'warn',
      INGEST_MAINTENANCE_WORK_MEM: MAINTENANCE_WORK_MEM,
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  try {
    await client.query(
      `WITH r AS (INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, queued_at)
                  VALUES ('bench', $1, 1, 'queued', now(), 'bench', now()) RETURNING revision_id),
            u AS (INSERT INTO ingest.upload (upload_id, model, bytes, sha256, offset_bytes, created_by, received_at)
                  VALUES ($2, 'bench', $3, decode($4, 'hex'), $3, 'bench', now()))
       INSERT INTO ingest.run_file SELECT revision_id, 'scores.jsonl', $3, decode($4, 'hex'), $5, $2 FROM r`,
      [`round ${round}`, uploadId, file.bytes, file.sha256, file.rows],
    );
    for (;;) {
      const { rows: attempts } = await client.query<{
        outcome: string | null;
        seconds: number;
        error: string | null;
      }>(
        `SELECT outcome, a.error, extract(epoch FROM finished_at - started_at)::float8 AS seconds
         FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id) WHERE run_key = $1`,
        [`round ${round}`],
      );
      const [attempt] = attempts;
      if (attempt?.outcome === 'published') {
        // finished_at is written before COMMIT: what was measured until now is the whole load as seen from outside.
        const { rows: committed } = await client.query<{ seconds: number }>(
          `SELECT extract(epoch FROM clock_timestamp() - started_at)::float8 AS seconds
           FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id) WHERE run_key = $1`,
          [`round ${round}`],
        );
        return {
          seconds: committed[0]?.seconds ?? attempt.seconds,
          residentKb: await peakResidentKb(loader),
        };
      }
      if (attempt?.outcome != null) throw new Error(`The load ended as ${attempt.outcome}: ${attempt.error}`);
      await delay(20);
    }
  } finally {
    loader.kill('SIGTERM');
    if (loader.exitCode === null) await once(loader, 'exit');
  }
}

async function peakResidentKb(child: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0);
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
