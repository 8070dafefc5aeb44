import { access, constants, mkdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { UploaderError } from '../uploader-error.ts';

/** Where hashes are kept; null where there is no home folder, and then they are not kept. */
export function findStateDir(asked: string | null, env: NodeJS.ProcessEnv): string | null {
  if (asked) return resolve(asked);
  if (env.XDG_STATE_HOME) return join(env.XDG_STATE_HOME, 'uploader');
  return env.HOME ? join(env.HOME, '.local', 'state', 'uploader') : null;
}

/**
 * Makes the state folder, once, before anything is begun. One that was asked for and cannot be used is a fault of the
 * configuration. The one that nobody asked for only spares work: without it files are hashed again, and `warn` is told.
 */
export async function openStateDir(
  asked: string | null,
  env: NodeJS.ProcessEnv,
  warn: (sentence: string) => void,
): Promise<string | null> {
  const dir = findStateDir(asked, env);
  if (dir === null) return null;
  try {
    await makeFolder(dir);
    await access(dir, constants.R_OK | constants.W_OK | constants.X_OK);
    return dir;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const what = `The state folder ${dir} cannot be used: ${reason}.`;
    if (asked)
      throw new UploaderError('usage', `${what} Name another one with --state-dir or UPLOADER_STATE_DIR.`);
    warn(`${what} Nothing is kept, and the next push hashes again.`);
    return null;
  }
}

/** Not mkdir's own `recursive`: where a parent exists and takes no folders (/proc), that tries for ever. */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    const parent = dirname(path);
    if (code !== 'ENOENT' || parent === path) throw error;
    if (await isFolder(parent)) throw error;
    await makeFolder(parent);
    await mkdir(path, { mode: 0o700 });
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
