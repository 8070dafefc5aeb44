import { userInfo } from 'node:os';
import { type Command, InvalidArgumentError } from 'commander';
import { type Database, migrateToLatest, openDatabase, type Scope } from 'db-schema';
import type { Kysely } from 'kysely';
import { type Contract, contract, isModelName, MODEL_NAME_RULE, type ModelName, printable } from 'wire';
import { z } from 'zod';
import {
  type DatabaseConfig,
  type Environment,
  loadDatabaseConfig,
  loadMoveConfig,
  loadStoreConfig,
  type StoreConfig,
} from '../config.ts';
import { UsageError } from '../errors.ts';
import { reason, runKey } from '../http/requests.ts';
import { eraseKeys } from '../load/erase.ts';
import { findModel, listModels, setContract } from '../runs/models.ts';
import { adoptStore } from '../runs/store-identity.ts';
import { moveStore } from '../runs/store-move.ts';
import { createToken, listTokens, revokeTokens, rotateToken } from '../runs/tokens.ts';
import { openStore } from '../store/open.ts';
import { EXIT_DIFFERS, EXIT_NOT_THERE } from './exit-codes.ts';
import { verifyPartitions } from './verify.ts';

const SCOPES: readonly Scope[] = ['push', 'read', 'operate', 'admin'];
const DAY_MS = 24 * 60 * 60 * 1000;

/** The commands of operators. The environment is read when a command runs, so that `--help` needs none. */
export function addAdminCommands(program: Command, env: Environment): void {
  program
    .command('migrate')
    .description('create or update the schema of the database; DATABASE_URL logs in as its owner')
    .action(() => migrate(loadDatabaseConfig(env)));

  const store = program.command('store').description('the store of the bytes of uploads (INGEST_STORE)');
  store
    .command('adopt')
    .description(
      'after a restore, with every service and loader stopped: make it the store of this database, and list the uploads that lack bytes',
    )
    .requiredOption('--reason <text>', 'why; the audit log keeps it', argument(reason))
    .action((options: { reason: string }) => adopt(loadStoreConfig(env), options.reason));

  store
    .command('move')
    .description(
      'with every service and loader stopped: copy the bytes of INGEST_STORE to another folder or bucket, check them, and make it the store of this database; safe to run again',
    )
    .requiredOption('--to <store>', 'a folder, or s3://bucket/prefix')
    .action(({ to }: { to: string }) => move(loadMoveConfig(env, to)));

  program
    .command('verify')
    .description(
      'read loaded rows back and compare them with the manifest and the profile of their load; exit code 65: something differs, 66: no run with rows has this name',
    )
    .argument('[model]', 'only this model', argument(modelName))
    .argument('[run]', 'only this run of it', argument(runKey))
    .option('--json', 'one JSON object per revision', false)
    .action((model: ModelName | undefined, run: string | undefined, options: { json: boolean }) =>
      verify(loadDatabaseConfig(env), { model, run }, options.json),
    );

  addTokenCommands(program.command('token').description('tokens of the HTTP service'), env);

  const modelCommand = program.command('model').description('the contracts of models');
  modelCommand
    .command('show')
    .description('print a model, or all: its contract and the run that readers see, one JSON object per line')
    .argument('[model]', 'only this model', argument(modelName))
    .action((model: ModelName | undefined) => showModels(loadDatabaseConfig(env), model));

  const set = modelCommand
    .command('set')
    .description('change the contract of a model and print it; `none` removes a field')
    .argument('<model>', 'the model; a new one is created', argument(modelName));
  for (const [field, { description = '' }] of Object.entries(contract.shape)) {
    const flag = field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (field === 'attributes') set.option(`--${flag} <json|none>`, description, parseJson);
    else if (TEXT_FIELDS.has(field)) set.option(`--${flag} <text|none>`, description);
    else set.option(`--${flag} <number|none>`, description, parseNumber);
  }
  set.action((model: ModelName, changes: Changes) => setModel(loadDatabaseConfig(env), model, changes));

  program
    .command('erase')
    .description(
      'delete the rows of these keys from every run of a model that is kept; safe to run again. DATABASE_URL logs in as the owner of the database or a loader',
    )
    .requiredOption('--model <model>', 'the model', argument(modelName))
    .requiredOption('--pk-file <file>', 'the keys, one a line')
    .requiredOption('--reason <text>', 'why; the audit log keeps it, so name no key', argument(reason))
    .action((options: { model: ModelName; pkFile: string; reason: string }) =>
      erase(loadDatabaseConfig(env), options),
    );
}

async function migrate(config: DatabaseConfig): Promise<void> {
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

async function adopt(config: StoreConfig, why: string): Promise<void> {
  const store = await openStore(config.store);
  await store.prepare();
  await withDatabase(config, 'ingest-api store', async (db) => {
    const { storeId, lost } = await adoptStore(db, store, { actor: cliActor(), reason: why });
    for (const { uploadId, recordedBytes, storedBytes } of lost)
      process.stdout.write(`upload ${uploadId}: the store holds ${storedBytes} of ${recordedBytes} bytes\n`);
    process.stdout.write(
      `${store.name} is now the store ${storeId} of this database; ${lost.length} upload(s) lack bytes, which the next push sends again\n`,
    );
  });
}

async function erase(
  { databaseUrl }: DatabaseConfig,
  { model, pkFile, reason: why }: { model: ModelName; pkFile: string; reason: string },
): Promise<void> {
  const say = (line: string) => process.stdout.write(`${line}\n`);
  const report = await eraseKeys(
    { databaseUrl, role: 'ingest_loader', applicationName: 'ingest-api erase' },
    { model, keyFile: pkFile, reason: why, actor: cliActor() },
    ({ run, revision, state, rows }) =>
      say(`${model}/${printable(run)} revision ${revision} (${state}): ${rows} row(s) erased`),
  );
  const { keys, revisions, rows, blankedLines, waitingFiles, keptFiles } = report;
  say(
    `${model}: ${keys} key(s), ${rows} row(s) erased from ${revisions} revision(s); ${blankedLines} quoted line(s) blanked`,
  );
  for (const { run, revision, state, name: file } of waitingFiles)
    say(
      `${model}/${printable(run)} revision ${revision} (${state}): the file ${printable(file)} is received, not loaded, and may contain the keys`,
    );
  if (waitingFiles.length > 0)
    say(`${model}: withdraw these runs, or run this command again when they are loaded`);
  if (keptFiles > 0)
    say(
      `${model}: ${keptFiles} file(s) of loaded or withdrawn runs may contain the keys; the service deletes them after INGEST_KEEP_FILES_HOURS`,
    );
  say(
    `${model}: warning: a push of data that contains these keys brings them back. Remove them at the source. Backups and archived WAL keep them`,
  );
}

async function verify(
  config: DatabaseConfig,
  which: { readonly model: ModelName | undefined; readonly run: string | undefined },
  asJson: boolean,
): Promise<void> {
  let differing = 0;
  const compared = await verifyPartitions(config, which, (verdict) => {
    const { model, run, revision, faults } = verdict;
    if (faults.length > 0) differing += 1;
    const what = [
      ...faults,
      ...(verdict.compared.length > 0 ? [`The same: ${verdict.compared.join(', ')}.`] : []),
    ];
    const line = `${faults.length === 0 ? 'ok' : 'DIFFERS'} ${model}/${printable(run)} revision ${revision}: ${what.join(' ')}`;
    process.stdout.write(asJson ? `${JSON.stringify(verdict)}\n` : `${line}\n`);
  });
  if (differing > 0) process.exitCode = EXIT_DIFFERS;
  else if (compared === 0 && which.model !== undefined) process.exitCode = EXIT_NOT_THERE;
  const of = [which.model, which.run].filter((name) => name !== undefined).join('/');
  process.stderr.write(
    compared === 0
      ? `No rows are kept${of === '' ? '' : ` of ${printable(of)}`}: nothing was compared.\n`
      : `${compared} revision(s) compared, ${differing} differ\n`,
  );
}

const REPORT_EVERY_MS = 5_000;

async function move({ store, to, ...config }: ReturnType<typeof loadMoveConfig>): Promise<void> {
  const stores = { from: await openStore(store), to: await openStore(to) };
  await stores.to.prepare();
  await withDatabase(config, 'ingest-api store', async (db) => {
    let reportedMs = performance.now();
    const { wasMoved, copiedUploads, presentUploads, bytes } = await moveStore(
      db,
      stores,
      cliActor(),
      (uploads, ofUploads, copiedBytes) => {
        if (performance.now() - reportedMs < REPORT_EVERY_MS) return;
        reportedMs = performance.now();
        process.stdout.write(`${uploads} of ${ofUploads} uploads, ${copiedBytes} bytes\n`);
      },
    );
    if (wasMoved) {
      process.stdout.write(`${stores.to.name} is the store of this database already: nothing to do\n`);
      return;
    }
    process.stdout.write(
      `copied ${copiedUploads} upload(s), found ${presentUploads} there, ${bytes} bytes in all\n${stores.to.name} is now the store of this database. Set INGEST_STORE=${stores.to.name} for every service and loader, and start them. ${stores.from.name} is not needed any more.\n`,
    );
  });
}

function addTokenCommands(token: Command, env: Environment): void {
  const run = <T>(work: (db: Kysely<Database>) => Promise<T>) =>
    withDatabase(loadDatabaseConfig(env), 'ingest-api token', work);

  token
    .command('create')
    .description('create a token and print its secret, once')
    .argument('<name>', 'who uses it; the audit log shows this name', argument(tokenName))
    .option('--scope <scopes>', `${SCOPES.join(', ')}; separate several with commas`, parseScopes, [
      'push',
      'read',
    ])
    .option(
      '--model <model>',
      'a model that the token covers; repeatable (default: every model)',
      (name: string, all: ModelName[]) => [...new Set([...all, argument(modelName)(name)])],
      [],
    )
    .option('--expires-days <days>', 'days until it expires (default: never)', daysOf)
    .action((name: string, options: { scope: Scope[]; model: ModelName[]; expiresDays?: number }) =>
      run(async (db) => {
        const models = options.model.length === 0 ? null : options.model;
        const expiresAt = inDays(options.expiresDays);
        const secret = await createToken(db, { name, scopes: options.scope, models, expiresAt }, cliActor());
        printSecret(
          secret,
          `Token "${name}" (${options.scope.join(', ')}; ${models?.join(', ') ?? 'every model'}).`,
        );
      }),
    );

  token
    .command('rotate')
    .description(
      'create a second token with the same name, scopes and models, also when the first has expired; if not, both are valid until one is revoked',
    )
    .argument('<name>', 'of the token', argument(tokenName))
    .option('--expires-days <days>', 'days until the new token expires (default: never)', daysOf)
    .action((name: string, options: { expiresDays?: number }) =>
      run(async (db) => {
        const secret = await rotateToken(db, name, inDays(options.expiresDays), cliActor());
        printSecret(
          secret,
          `A new token "${name}". When every client uses it: ingest-api token revoke ${name} --keep-newest.`,
        );
      }),
    );

  token
    .command('revoke')
    .description('revoke every token of this name, expired ones too; services refuse them within a second')
    .argument('<name>', 'of the token', argument(tokenName))
    .option('--keep-newest', 'keep the newest valid one: the last step of a rotation', false)
    .action((name: string, options: { keepNewest: boolean }) =>
      run(async (db) => {
        const count = await revokeTokens(db, name, options, cliActor());
        if (count === 0)
          throw new UsageError(`No token to revoke is named "${name}"; see \`ingest-api token list\`.`);
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

/** The secret is the only line on stdout, so that a script can read it. */
function printSecret(secret: string, what: string): void {
  process.stderr.write(`${what} The secret is shown only once:\n`);
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

/** A table for people, with times in UTC. */
function formatTokens(tokens: readonly Token[]): string {
  const rows = [COLUMNS.map(([title]) => title), ...tokens.map((it) => COLUMNS.map(([, cell]) => cell(it)))];
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ');
  return rows.map((row) => `${line(row).trimEnd()}\n`).join('');
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10);
}

/** The other fields of a contract are numbers, and `attributes` is JSON. */
const TEXT_FIELDS: ReadonlySet<string> = new Set([
  'expectEvery',
  'expectGrace',
  'owner',
  'contact',
] satisfies (keyof Contract)[]);

const PAGE_MODELS = 500;

async function showModels(config: DatabaseConfig, one: ModelName | undefined): Promise<void> {
  await withDatabase(config, 'ingest-api model', async (db) => {
    if (one !== undefined) {
      process.stdout.write(`${JSON.stringify(await findModel(db, one))}\n`);
      return;
    }
    for (let after: string | null = ''; after !== null; ) {
      const page = await listModels(db, { models: null, after, limit: PAGE_MODELS });
      for (const model of page.models) process.stdout.write(`${JSON.stringify(model)}\n`);
      after = page.nextCursor;
    }
  });
}

type Changes = Partial<Record<keyof Contract, unknown>>;

/** Changes these fields of the contract, keeps the others, and prints the result. */
async function setModel(config: DatabaseConfig, model: ModelName, changes: Changes): Promise<void> {
  await withDatabase(config, 'ingest-api model', async (db) => {
    const [known] = (await listModels(db, { models: [model], limit: 1 })).models;
    const merged = Object.entries({ ...known?.contract, ...changes }).filter(([, value]) => value !== 'none');
    const result = contract.safeParse(Object.fromEntries(merged));
    if (!result.success) {
      const faults = result.error.issues.map(({ path, message }) => [...path, message].join(': '));
      throw new UsageError(
        `The contract of "${model}" would not be valid: ${faults.join('; ')}. Nothing was changed.`,
      );
    }
    if (Object.keys(changes).length > 0) await setContract(db, model, result.data, cliActor());
    process.stdout.write(`${JSON.stringify({ model, contract: result.data })}\n`);
  });
}

function inDays(days: number | undefined): Date | null {
  return days === undefined ? null : new Date(Date.now() + days * DAY_MS);
}

function parseScopes(text: string): Scope[] {
  const names = text.split(',');
  const unknown = names.find((name) => !SCOPES.includes(name as Scope));
  if (unknown !== undefined)
    throw new InvalidArgumentError(`"${unknown}" is not a scope; the scopes are ${SCOPES.join(', ')}.`);
  return [...new Set(names as Scope[])];
}

const modelName = z.string().refine(isModelName, `must be ${MODEL_NAME_RULE}`);
/** The rule of the table `ingest.api_token`. */
const tokenName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
    'must be 1 to 64 letters, digits, dots, underscores or hyphens, the first a letter or digit',
  );

/** A parser for commander, whose message names the argument and its value. */
function argument<T>(schema: z.ZodType<T>): (text: string) => T {
  return (text) => {
    const result = schema.safeParse(text);
    if (result.success) return result.data;
    throw new InvalidArgumentError(`It ${result.error.issues[0]?.message}.`);
  };
}

/** A hundred years. */
const DAYS_MAX = 36_500;

function daysOf(text: string): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1 || number > DAYS_MAX)
    throw new InvalidArgumentError(`It must be a whole number from 1 to ${DAYS_MAX}.`);
  return number;
}

function parseJson(text: string): unknown {
  if (text === 'none') return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new InvalidArgumentError(
      `It must be none, or a JSON array such as '[{"name":"decile","type":"integer","required":true,"min":1,"max":10}]'.`,
    );
  }
}

function parseNumber(text: string): number | 'none' {
  if (text === 'none') return text;
  const number = Number(text);
  if (text.trim() === '' || !Number.isFinite(number))
    throw new InvalidArgumentError('It must be a number, or none.');
  return number;
}

/** Runs `work` with the role of the service, on one connection. */
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
    onIdleError: () => {}, // the next query reports it
  });
  try {
    return await work(db);
  } finally {
    await db.destroy();
  }
}

/** The actor of a command in the audit log. The user of a container may have a number and no name. */
function cliActor(): string {
  try {
    return `cli:${userInfo().username}`;
  } catch {
    return `cli:uid ${process.getuid?.()}`;
  }
}
