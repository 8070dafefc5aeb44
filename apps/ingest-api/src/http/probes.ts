import type { Database } from 'db-schema';
import { Router } from 'express';
import { type Kysely, sql } from 'kysely';
import { IngestError } from '../errors.ts';
import { diskProbe } from '../store/disk-probe.ts';

export interface ProbeOptions {
  readonly db: Kysely<Database>;
  readonly dataDir: string;
  isStopping(): boolean;
}

/** `/livez`: the process answers. `/readyz`: it can do its work, i.e. reach the database and its disk. No token needed. */
export function probes({ db, dataDir, isStopping }: ProbeOptions): Router {
  const router = Router();
  const probeDisk = diskProbe(dataDir);
  router.get('/livez', (_req, res) => {
    res.set('Cache-Control', 'no-store').json({ status: 'ok' });
  });
  router.get('/readyz', async (_req, res) => {
    if (isStopping()) throw new IngestError('shutting_down', 'The service is stopping.');
    await sql`SELECT FROM ingest.run_revision LIMIT 1`.execute(db);
    await probeDisk();
    res.set('Cache-Control', 'no-store').json({ status: 'ready' });
  });
  return router;
}
