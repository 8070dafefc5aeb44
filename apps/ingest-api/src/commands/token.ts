import { type Command, InvalidArgumentError } from 'commander';
import { type Database, parseModelName, type Scope } from 'db-schema';
import type { Kysely } from 'kysely';
import { loadDatabaseConfig } from '../config.ts';
import { createToken, listTokens, revokeTokens, rotateToken } from '../runs/tokens.ts';
import { cliActor, withDatabase } from './with-database.ts';

const SCOPES: readonly Scope[] = ['push', 'read', 'operate', 'admin'];
const DAY_MS = 24 * 60 * 60 * 1000;

type Environment = Parameters<typeof loadDatabaseConfig>[0];

/** `ingest-api token …`. `readEnvironment` is called when a command runs, not when help is shown. */
export function addTokenCommands(program: Command, readEnvironment: () => Environment): void {
  const run = <T>(work: (db: Kysely<Database>) => Promise<T>) =>
    withDatabase(loadDatabaseConfig(readEnvironment()), 'ingest-api token', work);
  const token = program.command('token').description('tokens of the HTTP service');

  token
    .command('create')
    .description('make a token and print it, this once')
    .argument('<name>', 'who it is for, as it will stand in the audit log')
    .option('--scope <scopes>', `${SCOPES.join(', ')}; several with commas`, parseScopes, ['push', 'read'])
    .option(
      '--model <model>',
      'a model that it covers; may be given again (default: all)',
      (name: string, all: string[]) => [...all, name],
      [],
    )
    .option('--expires-days <days>', 'days until it ends (default: never)', positiveInteger)
    .action((name: string, options: { scope: Scope[]; model: string[]; expiresDays?: number }) =>
      run(async (db) => {
        const models = options.model.length === 0 ? null : options.model.map(parseModelName);
        const expiresAt = inDays(options.expiresDays);
        const secret = await createToken(db, { name, scopes: options.scope, models, expiresAt }, cliActor());
        show(
          secret,
          `Token "${name}" (${options.scope.join(', ')}; ${models?.join(', ') ?? 'every model'}).`,
        );
      }),
    );

  token
    .command('rotate')
    .description('make the successor of a token, with its scopes and models; both live until one is revoked')
    .argument('<name>')
    .option('--expires-days <days>', 'days until the new one ends (default: never)', positiveInteger)
    .action((name: string, options: { expiresDays?: number }) =>
      run(async (db) => {
        const secret = await rotateToken(db, name, inDays(options.expiresDays), cliActor());
        show(
          secret,
          `A second token "${name}". When every client has it: ingest-api token revoke ${name} --keep-newest.`,
        );
      }),
    );

  token
    .command('revoke')
    .description('end the live tokens of a name at once')
    .argument('<name>')
    .option('--keep-newest', 'all but the newest: the end of a rotation', false)
    .action((name: string, options: { keepNewest: boolean }) =>
      run(async (db) => {
        const count = await revokeTokens(db, name, options, cliActor());
        if (count === 0)
          throw new Error(`There is no such live token named "${name}"; see \`ingest-api token list\`.`);
        process.stdout.write(`revoked ${count} token(s) named "${name}"\n`);
      }),
    );

  token
    .command('list')
    .description('every token: who, what for, until when, used last; never the token itself')
    .option('--json', 'one JSON object a line', false)
    .action((options: { json: boolean }) =>
      run(async (db) => {
        const tokens = await listTokens(db);
        process.stdout.write(
          options.json ? tokens.map((it) => `${JSON.stringify(it)}\n`).join('') : formatTokens(tokens),
        );
      }),
    );
}

/** The token is the last line of stdout, and alone there, so that a script can keep it. */
function show(secret: string, what: string): void {
  process.stderr.write(`${what} It is shown this once:\n`);
  process.stdout.write(`${secret}\n`);
}

type Token = Awaited<ReturnType<typeof listTokens>>[number];

const COLUMNS: readonly [string, (token: Token) => string][] = [
  ['ID', (it) => String(it.token_id)],
  ['NAME', (it) => it.name],
  ['STATE', (it) => it.state],
  ['SCOPES', (it) => it.scopes.join(',')],
  ['MODELS', (it) => it.models?.join(',') ?? '(all)'],
  ['CREATED', (it) => day(it.created_at)],
  ['EXPIRES', (it) => (it.expires_at === null ? 'never' : day(it.expires_at))],
  ['LAST USED', (it) => it.last_used_at?.toISOString().slice(0, 16).replace('T', ' ') ?? 'never'],
];

/** A table for people; times are UTC. */
function formatTokens(tokens: readonly Token[]): string {
  const rows = [COLUMNS.map(([title]) => title), ...tokens.map((it) => COLUMNS.map(([, cell]) => cell(it)))];
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ');
  return rows.map((row) => `${line(row).trimEnd()}\n`).join('');
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10);
}

function inDays(days: number | undefined): Date | null {
  return days === undefined ? null : new Date(Date.now() + days * DAY_MS);
}

function parseScopes(text: string): Scope[] {
  const names = text.split(',');
  const unknown = names.find((name) => !SCOPES.includes(name as Scope));
  if (unknown !== undefined)
    throw new InvalidArgumentError(`"${unknown}" is not a scope; they are ${SCOPES.join(', ')}.`);
  return names as Scope[];
}

function positiveInteger(text: string): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1)
    throw new InvalidArgumentError('It must be a whole number from 1 on.');
  return number;
}
