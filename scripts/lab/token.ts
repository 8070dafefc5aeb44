import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { databaseDirIn } from './database.ts';
import { runIngestApi } from './ingest-api-process.ts';
import { LabFailure } from './lab-failure.ts';

/** The lab's token, for the uploader and the status page: made once, and kept beside the database that knows its hash. */
export async function labToken(home: string, databaseUrl: string): Promise<string> {
  const path = join(databaseDirIn(home), 'uploader-token');
  const kept = await readFile(path, 'utf8').catch(() => '');
  if (kept !== '') return kept;
  // Named by the time: one that was made but could not be kept does not stand in the way.
  const output = await runIngestApi(
    ['token', 'create', `lab-${Date.now()}`, '--scope', 'push,read,operate'],
    { DATABASE_URL: databaseUrl },
  );
  const token = output.trimEnd().split('\n').at(-1) ?? '';
  if (token === '') throw new LabFailure('`ingest-api token create` printed no token.');
  await writeFile(path, token, { mode: 0o600 });
  return token;
}
