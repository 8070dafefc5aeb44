import { Command } from 'commander';
import { push } from './commands/push.ts';
import type { PushResult } from './push/push-result.ts';
import type { Flags } from './settings/load-settings.ts';
import type { Terminal } from './terminal.ts';
import { uploaderVersion } from './version.ts';

const PUSH_EXAMPLES = `
Folders say what the flags leave out:
  uploader push scores                                      scores/<model>/<run>/*.jsonl
  uploader push scores --run 2026-11                        scores/<model>/*.jsonl
  uploader push scores/churn --model churn                  scores/churn/<run>/*.jsonl
  uploader push out --model churn --run 2026-11             out/*.jsonl

Files are *.jsonl, *.ndjson and *.json; names that start with _ or . and *.tmp, *.part are passed over.

In an Airflow BashOperator (the last line is the task's XCom):
  UPLOADER_URL=https://ingest.example.com UPLOADER_TOKEN_FILE=/run/secrets/ingest \\
    uploader push "$OUT" --model churn --run "{{ run_id }}" --as-of "{{ ds }}" --json

The token comes from UPLOADER_TOKEN, UPLOADER_TOKEN_FILE or --token-file. Every option can also be set as
UPLOADER_<NAME> (UPLOADER_TRANSFERS=8) or in the config file ({"url": "...", "tokenFile": "...", "transfers": 8});
an option beats the environment, the environment beats the file.

Exit codes; with several runs the first of 1, 2, 77, 66, 65, 75, 0 that occurs:
    0  published (with --no-wait: received), now or before
   65  the data is at fault, or a gate holds it: a human must act
   66  the source is missing, incomplete, or changed while it was sent
   75  network, service busy or out of time: run the same command again, it sends only what is missing
   77  the token is not allowed to do this
    2  usage or configuration       1  a bug of the uploader       130, 143  stopped by a signal; run it again
`;

export function createProgram(
  terminal: Terminal,
  interrupt: AbortSignal,
  finish: (result: PushResult) => void,
): Command {
  const program = new Command('uploader')
    .description('Pushes batch model scores (JSON Lines files) to the ingest service.')
    .version(uploaderVersion())
    .showHelpAfterError('(uploader --help and uploader push --help show examples)')
    .addHelpText('after', '\nExample:\n  uploader push scores      pushes scores/<model>/<run>/*.jsonl')
    .exitOverride()
    .configureOutput({ writeOut: terminal.writeOut, writeErr: terminal.writeError });

  program
    .command('push')
    .argument('<dir>', 'folder that holds the runs')
    .summary('send runs and wait until they are published')
    .description(
      'Makes runs in the service equal to folders here. Safe to repeat: only what is missing is sent.',
    )
    .option('--model <name>', 'the model, when the folders do not say it')
    .option('--run <key>', 'the run, when the folders do not say it')
    .option(
      '--as-of <date>',
      'what the scores are as of; orders the runs of a model (default: first declared)',
    )
    .option('--transfers <count>', 'files sent at the same time (default: 4)')
    .option('--chunk-size <size>', 'bytes of one request (default: 64MiB)')
    .option('--no-wait', 'stop when all is received, do not wait until it is published')
    .option('--json', 'write the result as one line of JSON, last, on stdout')
    .option('--url <address>', "the service's base address")
    .option('--token-file <file>', 'file that holds the token')
    .option('--ca <file>', 'trust the authority of this PEM file too, for an https:// service')
    .option('--cert <file>', 'client certificate (PEM), for a service that asks for one; with --key')
    .option('--key <file>', 'its key (PEM)')
    .option('--state-dir <dir>', 'where hashes are kept (default: ~/.local/state/uploader); may be deleted')
    .option('--config <file>', 'config file (default: ~/.config/uploader/config.json)')
    .option('--max-duration <time>', 'give up with 75 after this long (default: 6h)')
    .option('--poll <time>', 'longest pause between two looks at a run (default: 5s)')
    .option('--stall-timeout <time>', 'give up a request after this long without a byte (default: 60s)')
    .addHelpText('after', PUSH_EXAMPLES)
    .action(async (dir: string, options: Record<string, string | boolean>) => {
      finish(await push(dir, textOf(options), terminal, interrupt));
    });
  return program;
}

/** commander has `wait: true` when --no-wait is not given, which is no setting of the caller's. */
function textOf(options: Record<string, string | boolean>): Flags {
  return Object.fromEntries(
    Object.entries(options)
      .filter(([name, value]) => !(name === 'wait' && value === true))
      .map(([name, value]) => [name, String(value)]),
  );
}
