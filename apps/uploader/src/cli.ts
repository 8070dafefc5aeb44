import { Command, InvalidArgumentError, Option } from 'commander';
import { RUN_STATE } from 'wire';
import { check } from './commands/check.ts';
import { publish, retry } from './commands/runs.ts';
import { status } from './commands/status.ts';
import type { Terminal } from './progress/reporter.ts';
import { push } from './push/push.ts';
import type { CommandResult } from './results/result.ts';
import type { Flags } from './settings/settings.ts';
import { uploaderVersion } from './version.ts';
import { watch } from './watch/watch.ts';

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

/** What every command is given. */
type CliContext = {
  terminal: Terminal;
  interrupt: AbortSignal;
  finish: (result: CommandResult) => void;
};

type Options = Record<string, string | boolean>;

/** commander has `wait: true` when --no-wait is not given, which is no setting of the caller's. */
function flagsOf(options: Options): Flags {
  return Object.fromEntries(
    Object.entries(options)
      .filter(([name, value]) => !(name === 'wait' && value === true))
      .map(([name, value]) => [name, String(value)]),
  );
}

function textOf(option: string | boolean | undefined): string | undefined {
  return typeof option === 'string' ? option : undefined;
}

function addLayoutOptions(command: Command): Command {
  return command
    .option('--model <name>', 'the model, when the folders do not say it')
    .option('--run <key>', 'the run, when the folders do not say it')
    .option(
      '--ignore <globs>',
      'leave out files and folders of these names (or, with a slash, paths below DIR); may be given again',
      (globs: string, before: string | undefined) => (before === undefined ? globs : `${before},${globs}`),
    );
}

function addServiceOptions(command: Command): Command {
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

function addTransferOptions(command: Command): Command {
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

function addPollOption(command: Command): Command {
  return command.option('--poll <time>', 'longest pause between two looks at a run (default: 5s)');
}

function addResultOptions(command: Command): Command {
  return command
    .option('--json', 'write the result as one line of JSON, last, on stdout')
    .option('--result-file <file>', 'write the result as JSON into this file too');
}

const PUSH_EXAMPLES = `
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

function addPush(program: Command, { terminal, interrupt, finish }: CliContext): void {
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
    .addHelpText('after', PUSH_EXAMPLES)
    .action(async (dir: string, options: Options) => {
      finish(await push(dir, flagsOf(options), terminal, interrupt));
    });
}

const STATUS_EXAMPLES = `
Examples:
  uploader status                              the newest runs of all models
  uploader status churn                        those of one model
  uploader status --state failed --limit 500   up to 500 that failed
  uploader status churn 2026-11                one run, with what is wrong with it
  uploader status churn 2026-11 --wait         the same when it is settled

Of one run the exit code says how it stands: 0 published, or loaded behind a later run, which is named (65
with --require-shown); 65 refused or held; 75 not settled or not there yet. In Airflow that is a sensor which holds no worker:
  BashSensor(bash_command='uploader status churn "{{ run_id }}"', retry_exit_code=75, mode="reschedule", ...)
`;

const PUBLISH_EXAMPLES = `
Examples:
  uploader publish churn 2026-10 --reason "2026-11 was scored with the wrong features"
  uploader publish churn 2026-11 --force --reason "row count checked with the team, TICKET-17"

Who did it, when and why is kept. Needs a token that may operate. Exit codes as for push.
`;

/** The commands that act on what the service has. */
function addServiceCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
  const statusCommand = program
    .command('status')
    .argument('[model]')
    .argument('[run]')
    .summary('show runs, or one run and how it stands')
    .description('Shows the newest runs, those of a model, or one run.')
    .option('--wait', 'wait until the run is settled')
    .option('--require-shown', 'of one run: end with 65 if it is loaded and readers see another one')
    .option('--limit <count>', 'of a list: at most this many runs (default: 50)', wholeNumber)
    .addOption(
      new Option('--state <state>', 'of a list: only runs in this state').choices(RUN_STATE.options),
    );
  addPollOption(addServiceOptions(addResultOptions(statusCommand)))
    .addHelpText('after', STATUS_EXAMPLES)
    .action(async (model: string | undefined, run: string | undefined, given: Options) => {
      const { wait, limit, state, ...options } = given;
      const query = {
        model,
        run,
        wait: wait === true,
        limit: limit === undefined ? undefined : Number(limit),
      };
      finish(await status({ ...query, state: textOf(state) }, flagsOf(options), terminal, interrupt));
    });

  const publishCommand = program
    .command('publish')
    .argument('<model>')
    .argument('<run>')
    .summary('show readers another run: what is held, or an older one')
    .description('Makes a loaded run the one that readers see. A pointer moves, no data does.')
    .requiredOption('--reason <text>', 'why; kept with who and when')
    .option('--revision <number>', 'of this revision (default: the newest of the run)', wholeNumber)
    .option('--force', 'although a gate holds it');
  addServiceOptions(addResultOptions(publishCommand))
    .addHelpText('after', PUBLISH_EXAMPLES)
    .action(async (model: string, run: string, given: Options & { revision?: string }) => {
      const { reason, force, revision, ...options } = given;
      const publication = {
        run,
        reason: textOf(reason) ?? '',
        ...(revision === undefined ? {} : { revision: Number(revision) }),
        ...(force === true ? { force } : {}),
      };
      finish(await publish(model, publication, flagsOf(options), terminal, interrupt));
    });

  const retryCommand = program
    .command('retry')
    .argument('<model>')
    .argument('<run>')
    .summary('have a failed run loaded again')
    .description('Has a failed run loaded again, and waits for its end. For new data push instead.')
    .option('--reason <text>', 'why; kept with who and when')
    .option('--no-wait', 'stop when it is queued');
  addPollOption(addServiceOptions(addResultOptions(retryCommand)))
    .addHelpText(
      'after',
      '\nExample:\n  uploader retry churn 2026-11 --reason "the gate was too narrow, and is wider now"',
    )
    .action(async (model: string, run: string, { reason, ...options }: Options) => {
      finish(await retry({ model, run, reason: textOf(reason) }, flagsOf(options), terminal, interrupt));
    });
}

function wholeNumber(text: string): string {
  if (/^[1-9]\d{0,8}$/.test(text)) return text;
  throw new InvalidArgumentError('It must be a whole number from 1 on.');
}

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
function addLocalCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
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
