import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { ScoreFile } from '../support/score-file.ts';
import type { TestSystem } from '../support/test-system.ts';
import { waitFor } from '../support/wait-for.ts';

/** What must be true of a run when its push has ended with 0. */
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
  if (upload === undefined) throw new Error(`There is no ${run}.`);
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

/** What must be true when everything is over and swept: nothing is left that no run needs. */
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
  await waitFor('every lock to be given back', async () => {
    const locks = await system.query(`SELECT FROM pg_locks WHERE locktype = 'advisory'`);
    return locks.length === 0;
  });
  const writers = await system.query(
    `SELECT upload_id FROM ingest.upload WHERE writer IS NOT NULL AND received_at IS NULL`,
  );
  expect(writers, 'unfinished uploads with a writer').to.deep.equal([]);
}

/** The server may just be coming back. */
function patiently<T>(work: () => Promise<T>): Promise<T> {
  return waitFor('the database', () => work().catch(() => undefined), 30_000);
}
