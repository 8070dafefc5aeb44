import type { Command } from 'commander';

export function addLayoutOptions(command: Command): Command {
  return command
    .option('--model <name>', 'the model, when the folders do not say it')
    .option('--run <key>', 'the run, when the folders do not say it')
    .option(
      '--ignore <globs>',
      'leave out files and folders of these names (or, with a slash, paths below DIR); may be given again',
      (globs: string, before: string | undefined) => (before === undefined ? globs : `${before},${globs}`),
    );
}

export function addServiceOptions(command: Command): Command {
  return command
    .option('--url <address>', "the service's base address")
    .option('--token-file <file>', 'file that holds the token')
    .option('--ca <file>', 'trust the authority of this PEM file too, for an https:// service')
    .option('--cert <file>', 'client certificate (PEM), for a service that asks for one; with --key')
    .option('--key <file>', 'its key (PEM)')
    .option('--config <file>', 'config file (default: ~/.config/uploader/config.json)')
    .option('--max-duration <time>', 'give up with 75 after this long (default: 6h)')
    .option('--stall-timeout <time>', 'give up a request after this long without a byte (default: 60s)');
}

export function addTransferOptions(command: Command): Command {
  return command
    .option(
      '--as-of <date>',
      'what the scores are as of; orders the runs of a model (default: the date in the run key, else now)',
    )
    .option('--transfers <count>', 'files sent at the same time (default: 4)')
    .option('--chunk-size <size>', 'bytes of one request (default: 64MiB)')
    .option('--bwlimit <rate>', 'bytes a second, all transfers together, such as 10MB (default: no limit)')
    .option('--state-dir <dir>', 'where hashes are kept (default: ~/.local/state/uploader); may be deleted');
}

export function addPollOption(command: Command): Command {
  return command.option('--poll <time>', 'longest pause between two looks at a run (default: 5s)');
}

export function addResultOptions(command: Command): Command {
  return command
    .option('--json', 'write the result as one line of JSON, last, on stdout')
    .option('--result-file <file>', 'write the result as JSON into this file too');
}
