import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

/** What one contender left unsynced must not be written out while the next one is measured. */
export async function quietDisk(): Promise<void> {
  await promisify(execFile)('sync');
}

export async function emptyFolder(dir: string): Promise<void> {
  const files = (await readdir(dir)).filter((name) => name !== 'store.json'); // what says whose folder it is stays
  for (const file of files) await rm(path.join(dir, file), { recursive: true, force: true });
}
