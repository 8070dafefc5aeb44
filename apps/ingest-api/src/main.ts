import { Command, InvalidArgumentError } from 'commander';
import { type Logger, pino } from 'pino';
import { createTokenCommand, parseScopes } from './commands/create-token.ts';
import { load } from './commands/load.ts';
import { migrate } from './commands/migrate.ts';
import { serve } from './commands/serve.ts';
import { ConfigError, loadDatabaseConfig, loadLoaderConfig, loadServeConfig } from './config.ts';
import { describeError } from './errors.ts';

const EXIT_FAULT = 1;
const EXIT_USAGE = 2;

function createLogger(level: string): Logger {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime });
}

/** Aborted by the first SIGINT or SIGTERM; the second one ends the process at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => controller.abort());
  return controller.signal;
}

function positiveInteger(text: string): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1)
    throw new InvalidArgumentError('It must be a whole number from 1 on.');
  return number;
}

const program = new Command('ingest-api')
  .description('Receives model scores over HTTP (serve) and loads them into PostgreSQL (load).')
  .addHelpText('after', '\nConfigured by the environment: DATABASE_URL, INGEST_*. See .env.example.')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE));

program
  .command('serve')
  .description('run the HTTP service')
  .action(async () => {
    const config = loadServeConfig(process.env);
    await serve(config, createLogger(config.logLevel), stopSignal());
  });

program
  .command('load')
  .description('run a loader: any number may run at once')
  .action(async () => {
    const config = loadLoaderConfig(process.env);
    await load(config, createLogger(config.logLevel), stopSignal());
  });

program
  .command('migrate')
  .description('bring the database up to date (as its owner)')
  .action(() => migrate(loadDatabaseConfig(process.env)));

program
  .command('token')
  .description('tokens of the HTTP service')
  .command('create')
  .description('make a token and print it, this once')
  .argument('<name>', 'who it is for, as it will stand in the audit log')
  .option('--scope <scopes>', 'push, read, operate, admin; several with commas', parseScopes, [
    'push',
    'read',
  ])
  .option(
    '--model <model>',
    'a model that it covers; may be given again (default: all)',
    (name: string, all: string[]) => [...all, name],
    [],
  )
  .option('--expires-days <days>', 'days until it ends (default: never)', positiveInteger)
  .action((name: string, options) => createTokenCommand(loadDatabaseConfig(process.env), name, options));

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`ingest-api: ${describeError(error)}\n`);
  process.exitCode = error instanceof ConfigError ? EXIT_USAGE : EXIT_FAULT;
}
