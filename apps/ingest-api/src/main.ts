import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { UnusableDatabase } from 'db-schema';
import { addAdminCommands } from './commands/admin.ts';
import { EXIT_CODES, EXIT_FAULT, exitCodeOf } from './commands/exit-codes.ts';
import { describeVariables, loadLoaderConfig, loadServeConfig } from './config.ts';
import { describeError, isDatabaseUnavailable } from './errors.ts';
import { createLogger } from './log.ts';

const program = new Command('ingest-api')
  .description('Receives model scores over HTTP (serve) and loads them into PostgreSQL (load).')
  .version(ownVersion())
  .addHelpText(
    'after',
    `
Environment variables configure it: \`ingest-api serve --help\` and \`ingest-api load --help\` list them.

Exit codes:
${Object.entries(EXIT_CODES)
  .map(([code, means]) => `  ${code.padStart(2)}  ${means.replaceAll('`', '')}`)
  .join('\n')}`,
  )
  // It throws instead of ending the process, which would cut output that a pipe has not received yet.
  .exitOverride();

program
  .command('serve')
  .description('run the HTTP service')
  .addHelpText('after', describeVariables('serve'))
  .action(async () => {
    const config = loadServeConfig(process.env);
    // Not above: the other commands start sooner without it.
    const { serve } = await import('./commands/serve.ts');
    await serve(config, createLogger(config.logLevel), stopSignal());
  });

program
  .command('load')
  .description('run a loader; any number of them may run at the same time')
  .addHelpText('after', describeVariables('load'))
  .action(async () => {
    const config = loadLoaderConfig(process.env);
    const { load } = await import('./commands/load.ts');
    await load(config, createLogger(config.logLevel), stopSignal());
  });

addAdminCommands(program, process.env);

process.stdout.on('error', (error) => {
  process.stderr.write(`ingest-api: The output could not be written: ${error.message}.\n`);
  process.on('exit', () => {
    process.exitCode ||= EXIT_FAULT;
  });
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
  if (!(error instanceof CommanderError)) describe(error);
}

function describe(error: unknown): void {
  const unreachable =
    isDatabaseUnavailable(error) && !(error instanceof UnusableDatabase)
      ? 'The database cannot be used; check DATABASE_URL, and that PostgreSQL runs: '
      : '';
  process.stderr.write(`ingest-api: ${unreachable}${describeError(error)}\n`);
}

/** The first SIGINT or SIGTERM aborts it; the second one ends the process at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => controller.abort());
  return controller.signal;
}

/** From package.json, beside `src/` and `dist/`. */
function ownVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return String(version);
}
