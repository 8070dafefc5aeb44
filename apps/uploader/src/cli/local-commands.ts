import type { Command } from 'commander';
import { check } from '../commands/check.ts';
import { watch } from '../commands/watch.ts';
import { type CliContext, flagsOf, type Options } from './cli-context.ts';
import {
  addLayoutOptions,
  addPollOption,
  addResultOptions,
  addServiceOptions,
  addTransferOptions,
} from './common-options.ts';

const CHECK_EXAMPLES = `
Examples:
  uploader check scores                                     every run of scores/<model>/<run>/*.jsonl
  uploader check out --model churn --run 2026-11 --json     one folder, the report as JSON

Lines are read by the scanner that the service loads with. Two lines with the same pk are found by the
service only. Exit codes: 0 no line would be refused, 65 some would, 66 the source cannot be read, 2 usage.
`;

const WATCH_EXAMPLES = `
A run is pushed when its folder has a file named _SUCCESS, never because it looks finished:
  cp part-*.jsonl scores/churn/2026-11/ && touch scores/churn/2026-11/_SUCCESS

Examples:
  uploader watch scores                                     scores/<model>/<run>/_SUCCESS
  uploader watch scores/churn --model churn --json          scores/churn/<run>/_SUCCESS, a line of JSON a run

Each marker is pushed once, across restarts too; write the marker again to push again. SIGTERM or SIGINT
ends it (143, 130), and the next start goes on. On network file systems that tell of no changes set
CHOKIDAR_USEPOLLING=1.
`;

/** The commands that begin with what lies in a folder, besides `push`. */
export function addLocalCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
  const checking = program
    .command('check')
    .argument('<dir>', 'folder that holds the runs')
    .summary('say which lines the service would refuse, without sending any')
    .description('Reads every line as the service would. Needs no service and no token.')
    .option('--config <file>', 'config file (default: ~/.config/uploader/config.json)');
  addResultOptions(addLayoutOptions(checking))
    .addHelpText('after', CHECK_EXAMPLES)
    .action(async (dir: string, options: Options) => {
      finish(await check(dir, flagsOf(options), terminal, interrupt));
    });

  const watching = program
    .command('watch')
    .argument('<dir>', 'folder in which runs appear')
    .summary('push each run when its _SUCCESS file appears, until stopped')
    .description(
      'Pushes each run when its _SUCCESS file appears, and prints a line for it when it has ended.',
    )
    .option('--no-wait', 'a run has ended when it is received, not when it is published')
    .option('--json', 'a line of JSON for each run');
  addPollOption(addServiceOptions(addTransferOptions(addLayoutOptions(watching))))
    .addHelpText('after', WATCH_EXAMPLES)
    .action((dir: string, options: Options) => watch(dir, flagsOf(options), terminal, interrupt));
}
