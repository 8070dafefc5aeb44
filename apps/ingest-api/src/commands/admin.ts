import { userInfo } from 'node:os';
import { type Command, InvalidArgumentError } from 'commander';
import { type Contract, type Database, migrateToLatest, openDatabase, type Scope } from 'db-schema';
import type { Kysely } from 'kysely';
import { parseModelName } from 'wire';
import { type DatabaseConfig, type Environment, loadDatabaseConfig, type StoreConfig } from '../config.ts';
import { contractRequest, listModels, setContract } from '../runs/models.ts';
import { adoptStore } from '../runs/store-identity.ts';
import { createToken, listTokens, revokeTokens, rotateToken } from '../runs/tokens.ts';
import { prepareDataDir } from '../store/folder.ts';

/** Brings the database up to date; `DATABASE_URL` must be its owner, with the right to create roles. */
export async function migrate(config: DatabaseConfig): Promise<void> {
  const { applied, alreadyThere, accessChanged, advice } = await migrateToLatest(config.databaseUrl);
  for (const name of applied) process.stdout.write(`applied ${name}\n`);
  for (const object of accessChanged) process.stdout.write(`corrected owner and grants: ${object}\n`);
  for (const line of advice) process.stdout.write(`advice (nothing was changed): ${line}\n`);
  process.stdout.write(
    applied.length + accessChanged.length === 0
      ? `nothing to do: ${alreadyThere} migration(s) were applied before; roles, owners and grants are correct\n`
      : 'the database is up to date\n',
  );
}

/** Makes the folder the store of the database, and prints what is missing in it. */
export async function adopt(config: StoreConfig, reason: string): Promise<void> {
  await prepareDataDir(config.dataDir);
  await withDatabase(config, 'ingest-api store', async (db) => {
    const { storeId, lost } = await adoptStore(db, config.dataDir, { actor: cliActor(), reason });
    for (const { uploadId, recordedBytes, storedBytes } of lost)
      process.stdout.write(`upload ${uploadId}: the store holds ${storedBytes} of ${recordedBytes} bytes\n`);
    process.stdout.write(
      `${config.dataDir} is the store ${storeId} of this database; ${lost.length} upload(s) lack bytes; the next push sends them\n`,
    );
  });
}

const SCOPES: readonly Scope[] = ['push', 'read', 'operate', 'admin'];
const DAY_MS = 24 * 60 * 60 * 1000;

/** `ingest-api token …`. The environment is read when a command runs, so that `--help` needs none. */
export function addTokenCommands(program: Command, env: Environment): void {
  const run = <T>(work: (db: Kysely<Database>) => Promise<T>) =>
    withDatabase(loadDatabaseConfig(env), 'ingest-api token', work);
  const token = program.command('token').description('tokens of the HTTP service');

  token
    .command('create')
    .description('create a token and print its secret, once')
    .argument('<name>', 'who uses it; the audit log shows this name')
    .option('--scope <scopes>', `${SCOPES.join(', ')}; several with commas`, parseScopes, ['push', 'read'])
    .option(
      '--model <model>',
      'a model that it covers; repeatable (default: all)',
      (name: string, all: string[]) => [...all, name],
      [],
    )
    .option('--expires-days <days>', 'days until it expires (default: never)', positiveInteger)
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
    .description(
      'create a second token with the same name, scopes and models; both are valid until one is revoked',
    )
    .argument('<name>')
    .option('--expires-days <days>', 'days until the new token expires (default: never)', positiveInteger)
    .action((name: string, options: { expiresDays?: number }) =>
      run(async (db) => {
        const secret = await rotateToken(db, name, inDays(options.expiresDays), cliActor());
        show(
          secret,
          `A second token "${name}". When every client uses it: ingest-api token revoke ${name} --keep-newest.`,
        );
      }),
    );

  token
    .command('revoke')
    .description('revoke every valid token of this name, effective at once')
    .argument('<name>')
    .option('--keep-newest', 'keep the newest: the last step of a rotation', false)
    .action((name: string, options: { keepNewest: boolean }) =>
      run(async (db) => {
        const count = await revokeTokens(db, name, options, cliActor());
        if (count === 0)
          throw new Error(`No valid token to revoke is named "${name}"; see \`ingest-api token list\`.`);
        process.stdout.write(`revoked ${count} token(s) named "${name}"\n`);
      }),
    );

  token
    .command('list')
    .description('list every token with its scopes, models, expiry and last use, never the secret')
    .option('--json', 'one JSON object per line', false)
    .action((options: { json: boolean }) =>
      run(async (db) => {
        const tokens = await listTokens(db);
        process.stdout.write(
          options.json ? tokens.map((it) => `${JSON.stringify(it)}\n`).join('') : formatTokens(tokens),
        );
      }),
    );
}

/** The secret is the only line of stdout, so that a script can read it. */
function show(secret: string, what: string): void {
  process.stderr.write(`${what} It is shown only now:\n`);
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
    throw new InvalidArgumentError('It must be a whole number, 1 or more.');
  return number;
}

/** What each option of `model set` changes in the contract, and its help. */
const CONTRACT_OPTIONS: readonly [flag: string, field: keyof Contract, help: string][] = [
  ['score-min', 'scoreMin', 'lowest score a run may have'],
  ['score-max', 'scoreMax', 'highest score a run may have'],
  ['min-rows', 'minRows', 'fewest rows a run may have'],
  [
    'max-row-change-percent',
    'maxRowChangePercent',
    'largest change of the row count, in percent of the published run',
  ],
  ['max-score-shift-psi', 'maxScoreShiftPsi', 'largest population stability index against the published run'],
  ['max-rows', 'maxRows', 'most rows; a run with more is refused'],
  ['max-bytes', 'maxBytes', 'most bytes of decompressed lines; a run with more is refused'],
  ['max-rejected-lines', 'maxRejectedLines', 'bad lines that are left out; with one more the run fails'],
  ['keep-revisions', 'keepRevisions', 'loaded revisions that are kept besides the published one'],
];

type Changes = Partial<Record<keyof Contract, number | 'none'>>;

export function addContractOptions(command: Command): Command {
  for (const [flag, , help] of CONTRACT_OPTIONS) command.option(`--${flag} <number|none>`, help, parseNumber);
  return command;
}

function parseNumber(text: string): number | 'none' {
  if (text === 'none') return text;
  const number = Number(text);
  if (text.trim() === '' || !Number.isFinite(number))
    throw new InvalidArgumentError('It must be a number, or none.');
  return number;
}

/** Changes the given fields of a contract, keeps the others, and prints the result. */
export async function setModel(config: DatabaseConfig, name: string, changes: Changes): Promise<void> {
  const model = parseModelName(name);
  await withDatabase(config, 'ingest-api model', async (db) => {
    const [known] = await listModels(db, { models: [model], limit: 1 });
    const merged = Object.entries({ ...known?.contract, ...changes }).filter(([, value]) => value !== 'none');
    const result = contractRequest.safeParse(Object.fromEntries(merged));
    if (!result.success) {
      const faults = result.error.issues.map(({ path, message }) => [...path, message].join(': '));
      throw new Error(`The contract of "${model}" would not be valid: ${faults.join('; ')}.`);
    }
    if (Object.keys(changes).length > 0) await setContract(db, model, result.data, cliActor());
    process.stdout.write(`${JSON.stringify({ model, contract: result.data })}\n`);
  });
}

/** For a command that runs a few queries with the role of the service, on one connection. */
async function withDatabase<T>(
  config: DatabaseConfig,
  applicationName: string,
  work: (db: Kysely<Database>) => Promise<T>,
): Promise<T> {
  const { db } = openDatabase({
    databaseUrl: config.databaseUrl,
    role: 'ingest_api',
    applicationName,
    maxConnections: 1,
    onIdleError: () => {}, // the query that follows fails by itself
  });
  try {
    return await work(db);
  } finally {
    await db.destroy();
  }
}

/** The actor of a command in the audit log. In a container the user may have a number and no name. */
function cliActor(): string {
  try {
    return `cli:${userInfo().username}`;
  } catch {
    return `cli:uid ${process.getuid?.()}`;
  }
}
