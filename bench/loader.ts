import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { link, mkdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { RunningS3 } from 'local-s3';
import { s3Store } from '../apps/ingest-api/src/store/s3.ts';
import type { Segment } from '../apps/ingest-api/src/store/store.ts';
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

/** A store that the loader has never seen, with one file in it. */
interface FilledStore {
  readonly env: Readonly<Record<string, string>>;
  readonly segments: readonly Segment[];
}

/** Starts a real loader, which loads one revision of model `bench` as if the service had just received it. */
export async function loadOnce(
  database: BenchDatabase,
  { jsonPath, file }: { readonly jsonPath: string; readonly file: ScoreFile },
  run: string,
  maintenanceWorkMem: string,
  s3?: RunningS3,
): Promise<OurLoad> {
  const uploadId = randomBytes(16).toString('hex');
  await database.client.query('DELETE FROM ingest.store'); // each turn has a new store
  const { env, segments } =
    s3 === undefined
      ? await fillFolder(path.join(database.dir, uploadId), uploadId, jsonPath)
      : await fillBucket(s3, uploadId, jsonPath);
  const loader = spawn(process.execPath, [INGEST_API, 'load'], {
    env: {
      ...process.env,
      DATABASE_URL: database.url,
      ...env,
      INGEST_LOG_LEVEL: 'warn',
      INGEST_MAINTENANCE_WORK_MEM: maintenanceWorkMem,
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const exited = once(loader, 'exit');
  try {
    await queueRevision(database, run, uploadId, file, segments);
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

async function fillFolder(dataDir: string, uploadId: string, jsonPath: string): Promise<FilledStore> {
  await mkdir(dataDir);
  await link(jsonPath, path.join(dataDir, uploadId));
  return { env: { INGEST_STORE: dataDir }, segments: [] };
}

async function fillBucket(s3: RunningS3, uploadId: string, jsonPath: string): Promise<FilledStore> {
  const location = { ...s3.newLocation(), prefix: `${uploadId}/` };
  Object.assign(process.env, s3.env); // for the credentials of this process
  const store = s3Store(location);
  const segments: Segment[] = [];
  const { size } = await stat(jsonPath);
  await store.write({
    upload: { uploadId, fileName: uploadId, sizeBytes: size, offsetBytes: 0, createdAt: new Date() },
    offsetBytes: 0,
    pieces: piecesOf(jsonPath, store.gathering.mostBytes),
    mayWrite: async () => {},
    onDurable: async (_, segment) => void (segment && segments.push(segment)),
  });
  return { env: { ...s3.env, INGEST_STORE: `${s3.env.INGEST_STORE}/${uploadId}` }, segments };
}

async function* piecesOf(file: string, pieceBytes: number): AsyncGenerator<Buffer[]> {
  for await (const piece of createReadStream(file, { highWaterMark: pieceBytes })) yield [piece];
}

async function queueRevision(
  { client }: BenchDatabase,
  run: string,
  uploadId: string,
  file: ScoreFile,
  segments: readonly Segment[],
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
  for (const { fromByte, bytes, key, crc32 } of segments)
    await client.query(
      'INSERT INTO ingest.upload_segment (upload_id, from_byte, bytes, object_key, crc32) VALUES ($1, $2, $3, $4, $5)',
      [uploadId, fromByte, bytes, key, crc32],
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
