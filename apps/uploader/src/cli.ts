import { Command } from 'commander';
import type { CliContext } from './cli/cli-context.ts';
import { addLocalCommands } from './cli/local-commands.ts';
import { addPush } from './cli/push-command.ts';
import { addServiceCommands } from './cli/service-commands.ts';
import { uploaderVersion } from './version.ts';

const EXAMPLES = `
Examples:
  uploader push scores                   push scores/<model>/<run>/*.jsonl, and wait until it is published
  uploader check scores                  which lines would be refused? sends nothing
  uploader status churn 2026-11          is it in? why not?
  uploader watch scores                  push each run when its _SUCCESS file appears

uploader COMMAND --help shows the options, and more examples.`;

export function createProgram(context: CliContext): Command {
  const { terminal } = context;
  const program = new Command('uploader')
    .description('Pushes batch model scores (JSON Lines files) to the ingest service.')
    .version(uploaderVersion())
    .showHelpAfterError('(uploader --help and uploader push --help show examples)')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .configureOutput({ writeOut: terminal.writeOut, writeErr: terminal.writeError });
  addPush(program, context);
  addLocalCommands(program, context);
  addServiceCommands(program, context);
  return program;
}
