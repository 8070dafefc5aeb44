import { join, resolve } from 'node:path';

/** Where hashes are kept; null where there is no home folder, and then they are not kept. */
export function findStateDir(asked: string | null, env: NodeJS.ProcessEnv): string | null {
  if (asked) return resolve(asked);
  if (env.XDG_STATE_HOME) return join(env.XDG_STATE_HOME, 'uploader');
  return env.HOME ? join(env.HOME, '.local', 'state', 'uploader') : null;
}
