import { userInfo } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { openDatabase, parseModelName, type Scope } from 'db-schema';
import type { DatabaseConfig } from '../config.ts';
import { sqlStateOf } from '../errors.ts';
import { createToken } from '../runs/tokens.ts';

const SCOPES: readonly Scope[] = ['push', 'read', 'operate', 'admin'];
const UNIQUE_VIOLATION = '23505';
const DAY_MS = 24 * 60 * 60 * 1000;

export interface CreateTokenOptions {
  readonly scope: readonly Scope[];
  /** None covers every model. */
  readonly model: readonly string[];
  readonly expiresDays?: number;
}

export function parseScopes(text: string): Scope[] {
  const names = text.split(',');
  const unknown = names.find((name) => !SCOPES.includes(name as Scope));
  if (unknown !== undefined)
    throw new InvalidArgumentError(`"${unknown}" is not a scope; they are ${SCOPES.join(', ')}.`);
  return names as Scope[];
}

/** Prints the new token as the last line of stdout: the only time that it can be seen. */
export async function createTokenCommand(
  config: DatabaseConfig,
  name: string,
  options: CreateTokenOptions,
): Promise<void> {
  const { db } = openDatabase({
    databaseUrl: config.databaseUrl,
    role: 'ingest_api',
    applicationName: 'ingest-api token',
    maxConnections: 1,
    onIdleError: () => {}, // the query that follows fails by itself
  });
  try {
    const token = await createToken(
      db,
      {
        name,
        scopes: options.scope,
        models: options.model.length === 0 ? null : options.model.map(parseModelName),
        expiresAt:
          options.expiresDays === undefined ? null : new Date(Date.now() + options.expiresDays * DAY_MS),
      },
      `cli:${userInfo().username}`,
    );
    process.stderr.write(
      `Token "${name}" (${options.scope.join(', ')}; ${options.model.join(', ') || 'every model'}). It is shown this once:\n`,
    );
    process.stdout.write(`${token}\n`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    throw new Error(`There is a token named "${name}" already; choose another name.`);
  } finally {
    await db.destroy();
  }
}
