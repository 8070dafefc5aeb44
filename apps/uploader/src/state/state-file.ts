import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Where something about the run of this folder is kept: each in a file of its own. */
export function stateFilePath(stateDir: string, runFolder: string, ending: string): string {
  return join(stateDir, createHash('sha256').update(runFolder).digest('hex').slice(0, 32) + ending);
}

/** Replaces a file as a whole: whoever reads it sees the old text or the new one, also after a crash. */
export async function replaceFile(path: string, text: string): Promise<void> {
  // The folder may have been deleted since the start; whether it is there now, open() says.
  await mkdir(dirname(path), { mode: 0o700 }).catch(() => {});
  // Unlike a process id it is another one on every host that shares the folder.
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
