import { readFileSync } from 'node:fs';
import { ConfigError } from './config.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** What must not stand in an environment where others can read it (`docker inspect`, /proc). */
const SECRETS = ['DATABASE_URL'];

/**
 * The environment with each secret NAME taken from the file that NAME_FILE names, as Docker and Kubernetes
 * mount them. White space around the secret, such as an editor's last newline, is not part of it.
 *
 * @throws {ConfigError} when both are set, or the file cannot be read.
 */
export function withSecretFiles(env: Environment): Environment {
  const secrets: Record<string, string> = {};
  for (const name of SECRETS) {
    const path = env[`${name}_FILE`];
    if (!path) continue;
    if (env[name])
      throw new ConfigError(`${name} and ${name}_FILE are both set; keep one, so that nobody has to guess.`);
    try {
      secrets[name] = readFileSync(path, 'utf8').trim();
    } catch (error) {
      throw new ConfigError(`${name}_FILE: ${(error as Error).message}. Mount the secret there.`);
    }
  }
  return { ...env, ...secrets };
}
