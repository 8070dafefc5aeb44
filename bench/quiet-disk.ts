import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

/** What one contender left unsynced must not be written out while the next one is measured. */
export async function quietDisk(): Promise<void> {
  await promisify(execFile)('sync');
}

export async function emptyFolder(dir: string): Promise<void> {
  for (const file of await readdir(dir)) await rm(path.join(dir, file), { recursive: true, force: true });
}
