import type { Command } from 'commander';
import { push } from '../commands/push.ts';
import { type CliContext, flagsOf, type Options } from './cli-context.ts';
import {
  addLayoutOptions,
  addPollOption,
  addResultOptions,
  addServiceOptions,
  addTransferOptions,
} from './common-options.ts';

const EXAMPLES = `
Folders say what the flags leave out:
  uploader push scores                                      scores/<model>/<run>/*.jsonl
  uploader push scores --run 2026-11                        scores/<model>/*.jsonl
  uploader push scores/churn --model churn                  scores/churn/<run>/*.jsonl
  uploader push out --model churn --run 2026-11             out/*.jsonl

Files are *.jsonl, *.ndjson and *.json, plain or as *.gz or *.zst; names that start with _ or . and
*.tmp, *.part are passed over. Any other file, and files in deeper folders, end their run with 66, unless
they are left out on purpose:
  uploader push scores --ignore '*.csv' --ignore reports

See first what would happen, and leave half of a 200 Mbit/s line to others:
  uploader push scores --dry-run
  uploader push scores --bwlimit 12MB

In an Airflow BashOperator (the last line is the task's XCom):
  UPLOADER_URL=https://ingest.example.com UPLOADER_TOKEN_FILE=/run/secrets/ingest \\
    uploader push "$OUT" --model churn --run "{{ run_id }}" --as-of "{{ ds | default('') }}" --json
In a container of Airflow's, /airflow/xcom/return.json is written when /airflow/xcom is there.

The token comes from UPLOADER_TOKEN, UPLOADER_TOKEN_FILE or --token-file. Every option can also be set as
UPLOADER_<NAME> (UPLOADER_TRANSFERS=8) or in the config file ({"url": "...", "tokenFile": "...", "transfers": 8});
an option beats the environment, the environment beats the file.

Exit codes; with several runs the first of 1, 2, 77, 66, 65, 75, 0 that occurs:
    0  published, now or before, or loaded behind a later run, which is named (--require-shown: 65);
       with --no-wait: received
   65  the data is at fault, or a gate holds it: a human must act
   66  the source is missing, incomplete, or changed while it was sent
   75  network, service busy or out of time: run the same command again, it sends only what is missing
   77  the token is not allowed to do this
    2  usage or configuration       1  a bug of the uploader       130, 143  stopped by a signal; run it again
`;

export function addPush(program: Command, { terminal, interrupt, finish }: CliContext): void {
  const command = program
    .command('push')
    .argument('<dir>', 'folder that holds the runs')
    .summary('send runs and wait until they are published')
    .description(
      'Makes runs in the service equal to folders here. Safe to repeat: only what is missing is sent.',
    );
  addLayoutOptions(command);
  addTransferOptions(command)
    .option('--no-wait', 'stop when all is received, do not wait until it is published')
    .option('--require-shown', 'end with 65 unless readers see the very run that was pushed')
    .option('--dry-run', 'read and hash, say what would be sent, and send nothing');
  addPollOption(addServiceOptions(addResultOptions(command)))
    .addHelpText('after', EXAMPLES)
    .action(async (dir: string, options: Options) => {
      finish(await push(dir, flagsOf(options), terminal, interrupt));
    });
}
