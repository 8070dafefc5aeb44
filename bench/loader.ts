import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { link, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { peakMb } from '../e2e/support/programs.ts';
import type { BenchDatabase } from './database.ts';
import type { ScoreFile } from './score-file.ts';

const INGEST_API = path.join(import.meta.dirname, '../apps/ingest-api/bin/ingest-api.js');
const POLL_MS = 50;

export interface OurLoad {
  readonly seconds: number;
  readonly phases: { readonly copySeconds: number; readonly keySeconds: number };
  readonly peakResidentMb: number;
}

/** Starts a real loader, which loads one revision of model `bench` as if the service had just received it. */
export async function loadOnce(
  database: BenchDatabase,
  { jsonPath, file }: { readonly jsonPath: string; readonly file: ScoreFile },
  run: string,
  maintenanceWorkMem: string,
): Promise<OurLoad> {
  const dataDir = path.join(database.dir, 'uploads');
  await mkdir(dataDir, { recursive: true });
  const loader = spawn(process.execPath, [INGEST_API, 'load'], {
    env: {
      ...process.env,
      DATABASE_URL: database.url,
      INGEST_DATA_DIR: dataDir,
      INGEST_LOG_LEVEL: 'warn',
      INGEST_MAINTENANCE_WORK_MEM: maintenanceWorkMem,
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const exited = once(loader, 'exit');
  try {
    const uploadId = randomBytes(16).toString('hex');
    await link(jsonPath, path.join(dataDir, uploadId));
    await queueRevision(database, run, uploadId, file);
    const ended = exited.then(() =>
      Promise.reject(new Error('The loader ended before it published the run; its error is above.')),
    );
    const times = await Promise.race([untilPublished(database, run), ended]);
    return { ...times, peakResidentMb: await peakMb(loader.pid ?? 0) };
  } finally {
    loader.kill('SIGTERM');
    await exited;
  }
}

async function queueRevision(
  { client }: BenchDatabase,
  run: string,
  uploadId: string,
  file: ScoreFile,
): Promise<void> {
  await client.query(`INSERT INTO ingest.model (name) VALUES ('bench') ON CONFLICT DO NOTHING`);
  await client.query(
    `WITH k AS (INSERT INTO ingest.run VALUES ('bench', $1)),
          r AS (INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, queued_at)
                VALUES ('bench', $1, 1, 'queued', now(), 'bench', now()) RETURNING revision_id),
          u AS (INSERT INTO ingest.upload (upload_id, model, bytes, sha256, offset_bytes, created_by, received_at)
                VALUES ($2, 'bench', $3, decode($4, 'hex'), $3, 'bench', now()))
     INSERT INTO ingest.run_file (revision_id, name, bytes, sha256, lines, upload_id)
     SELECT revision_id, 'scores.jsonl', $3, decode($4, 'hex'), $5, $2 FROM r`,
    [run, uploadId, file.bytes, file.sha256, file.rows],
  );
}

interface Attempt {
  readonly outcome: string | null;
  readonly error: string | null;
  readonly seconds: number;
  readonly phases: { readonly copying: number; readonly building_key: number };
}

/** Seconds from the claim until another connection sees the publication, COMMIT included. */
async function untilPublished(
  { client }: BenchDatabase,
  run: string,
): Promise<Omit<OurLoad, 'peakResidentMb'>> {
  for (;;) {
    const { rows } = await client.query<Attempt>(
      `SELECT a.outcome, a.error, a.phase_seconds AS phases,
              extract(epoch FROM clock_timestamp() - a.started_at)::float8 AS seconds
       FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id) WHERE r.run_key = $1 AND r.model = 'bench'`,
      [run],
    );
    const [attempt] = rows;
    if (attempt?.outcome === 'published') {
      const { seconds, phases } = attempt;
      return { seconds, phases: { copySeconds: phases.copying, keySeconds: phases.building_key } };
    }
    if (attempt?.outcome != null)
      throw new Error(`The load ended as ${attempt.outcome}: ${attempt.error ?? 'no reason recorded'}`);
    await delay(POLL_MS);
  }
}
