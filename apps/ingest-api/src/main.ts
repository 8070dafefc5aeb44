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
    await untilStopped((signal, begun) => serve(config, createLogger(config.logLevel), signal, begun));
  });

program
  .command('load')
  .description('run a loader; any number of them may run at the same time')
  .addHelpText('after', describeVariables('load'))
  .action(async () => {
    const config = loadLoaderConfig(process.env);
    const { load } = await import('./commands/load.ts');
    await untilStopped((signal, begun) => load(config, createLogger(config.logLevel), signal, begun));
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

/**
 * Runs a program, and ends the process with it: a request to a bucket or database that does not answer is not waited for. (Node
 * does wait for a call of the system that is under way, such as the look-up of a name.) The first SIGINT or SIGTERM aborts the
 * signal, or ends the process if the program has not begun: then nothing is under way. The second one ends it at once.
 */
async function untilStopped(run: (signal: AbortSignal, begun: () => void) => Promise<void>): Promise<never> {
  const names = ['SIGINT', 'SIGTERM'] as const;
  const controller = new AbortController();
  let hasBegun = false;
  const stop = () => {
    for (const name of names) process.off(name, stop);
    if (!hasBegun) process.exit();
    controller.abort();
  };
  for (const name of names) process.on(name, stop);
  await run(controller.signal, () => {
    hasBegun = true;
  });
  process.exit();
}

/** From package.json, beside `src/` and `dist/`. */
function ownVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return String(version);
}
