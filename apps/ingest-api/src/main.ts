import { Command, CommanderError } from 'commander';
import { UnusableDatabase } from 'db-schema';
import { type Logger, pino } from 'pino';
import { printableJson } from 'wire';

import { addContractOptions, addTokenCommands, adopt, migrate, setModel } from './commands/admin.ts';
import { load } from './commands/load.ts';
import { serve } from './commands/serve.ts';
import {
  ConfigError,
  describeVariables,
  loadDatabaseConfig,
  loadLoaderConfig,
  loadServeConfig,
  loadStoreConfig,
} from './config.ts';
import { describeError } from './errors.ts';
import { WrongStore } from './runs/store-identity.ts';

const EXIT_FAULT = 1;
const EXIT_USAGE = 2;

function createLogger(level: string): Logger {
  return pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    hooks: { streamWrite: printableJson },
  });
}

/** Aborted by the first SIGINT or SIGTERM; the second one ends the process at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => controller.abort());
  return controller.signal;
}

const program = new Command('ingest-api')
  .description('Receives model scores over HTTP (serve) and loads them into PostgreSQL (load).')
  .addHelpText(
    'after',
    '\nThe environment configures it: `ingest-api serve --help` and `ingest-api load --help` list the variables.',
  )
  // It throws instead of ending the process, which would cut what a pipe has not taken yet.
  .exitOverride();

program
  .command('serve')
  .description('run the HTTP service')
  .addHelpText('after', describeVariables('serve'))
  .action(async () => {
    const config = loadServeConfig(process.env);
    await serve(config, createLogger(config.logLevel), stopSignal());
  });

program
  .command('load')
  .description('run a loader: any number may run at once')
  .addHelpText('after', describeVariables('load'))
  .action(async () => {
    const config = loadLoaderConfig(process.env);
    await load(config, createLogger(config.logLevel), stopSignal());
  });

program
  .command('migrate')
  .description('bring the database up to date (as its owner)')
  .action(() => migrate(loadDatabaseConfig(process.env)));

program
  .command('store')
  .description('the folder (INGEST_DATA_DIR) that holds the bytes of uploads')
  .command('adopt')
  .description(
    'after a restore, with every service and loader stopped: make the folder the store of this database, and find what is missing in it',
  )
  .requiredOption('--reason <text>', 'why; kept in the audit log')
  .action(({ reason }: { reason: string }) => adopt(loadStoreConfig(process.env), reason));

addTokenCommands(program, process.env);

addContractOptions(
  program
    .command('model')
    .description('what the runs of a model are held to')
    .command('set')
    .description('change a contract, and print it; `none` takes a limit away')
    .argument('<model>', 'the model; made when it is new'),
).action((name: string, changes) => setModel(loadDatabaseConfig(process.env), name, changes));

process.stdout.on('error', (error) => {
  process.stderr.write(`ingest-api: The output could not be written: ${error.message}.\n`);
  process.on('exit', () => {
    process.exitCode ||= EXIT_FAULT;
  });
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
  else fail(error);
}

function fail(error: unknown): void {
  process.stderr.write(`ingest-api: ${describeError(error)}\n`);
  const isUsage =
    error instanceof ConfigError || error instanceof UnusableDatabase || error instanceof WrongStore;
  process.exitCode = isUsage ? EXIT_USAGE : EXIT_FAULT;
}
