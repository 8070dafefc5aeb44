import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export type ConfigFile = { path: string; values: Record<string, unknown> };

/**
 * The JSON object of the config file: the one asked for, which must be there, else the one in the user's
 * config folder, which need not. Returns the fault as a sentence.
 */
export function readConfigFile(
  askedFor: string | undefined,
  env: NodeJS.ProcessEnv,
): ConfigFile | { fault: string } | null {
  const configHome = env.XDG_CONFIG_HOME || (env.HOME ? join(env.HOME, '.config') : null);
  const path = askedFor ?? (configHome ? join(configHome, 'uploader', 'config.json') : null);
  if (path === null) return null;
  try {
    const values: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (values && typeof values === 'object' && !Array.isArray(values)) {
      return { path, values: { ...values } };
    }
    return { fault: `The config file ${path} must hold one JSON object.` };
  } catch (error) {
    // ENOTDIR: accounts of services have homes such as /dev/null.
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (askedFor === undefined && (code === 'ENOENT' || code === 'ENOTDIR')) return null;
    const reason = error instanceof Error ? error.message : String(error);
    return { fault: `The config file ${path} cannot be read: ${reason}.` };
  }
}
