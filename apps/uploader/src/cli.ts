import { Command, InvalidArgumentError, Option } from 'commander';
import { RUN_STATE } from 'wire';
import { check } from './commands/check.ts';
import { publish, retry, withdraw } from './commands/runs.ts';
import { status } from './commands/status.ts';
import type { Terminal } from './progress/view.ts';
import { push } from './push/push.ts';
import type { CommandResult } from './results.ts';
import { uploaderVersion } from './service/client.ts';
import type { Flags } from './settings/settings.ts';
import { type CommandName, SETTINGS } from './settings/table.ts';
import { watch } from './watch/watch.ts';

const EXAMPLES = `
Examples:
  uploader push scores                   push scores/<model>/<run>/*.jsonl, and wait until it is published
  uploader check scores                  which lines would be rejected? sends nothing
  uploader status churn 2026-11          is it published? if not, why?
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
    .configureOutput({ writeOut: terminal.writeOut, writeErr: terminal.writeError })
    .hook('preAction', (_program, command) => context.begin(flagsOf(command.opts())));
  addPush(program, context);
  addLocalCommands(program, context);
  addServiceCommands(program, context);
  addWithdraw(program, context);
  return program;
}

/** What every command receives. */
type CliContext = {
  terminal: Terminal;
  interrupt: AbortSignal;
  /** Called with the options, before the command runs. */
  begin: (flags: Flags) => void;
  finish: (result: CommandResult) => void;
};

type Options = Record<string, string | boolean>;

/** commander sets `wait: true` when --no-wait is not given: the caller did not set it. */
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

/** A command with the options that the table gives it. */
function addCommand(program: Command, name: CommandName): Command {
  const command = program.command(name);
  for (const { flag, commands, help, default: value, without, repeatable } of Object.values(SETTINGS)) {
    if (!commands.includes(name)) continue;
    const shown = flag.includes('<') ? value || without : undefined;
    const option = new Option(flag, shown === undefined ? help : `${help} (default: ${shown})`);
    if (/<(dir|file)>/.test(flag)) option.argParser(notEmpty);
    if (repeatable)
      option.argParser((text: string, before: string | undefined) =>
        before === undefined ? text : `${before},${text}`,
      );
    command.addOption(option);
  }
  return command;
}

const PUSH_EXAMPLES = `
Folders name what the flags do not:
  uploader push scores                                      scores/<model>/<run>/*.jsonl
  uploader push scores --run 2026-11                        scores/<model>/*.jsonl
  uploader push scores/churn --model churn                  scores/churn/<run>/*.jsonl
  uploader push out --model churn --run 2026-11             out/*.jsonl

Files are *.jsonl, *.ndjson and *.json, plain or as *.gz or *.zst; names that start with _ or . and
*.tmp, *.part are skipped. Any other file, and files in deeper folders, end their run with 66, unless
--ignore leaves them out:
  uploader push scores --ignore '*.csv' --ignore reports

Check first what would be sent; use at most half of a 200 Mbit/s line:
  uploader push scores --dry-run
  uploader push scores --bwlimit 12MB

In an Airflow BashOperator (the last line is the task's XCom):
  UPLOADER_URL=https://ingest.example.com UPLOADER_TOKEN_FILE=/run/secrets/ingest \\
    uploader push "$OUT" --model churn --run "{{ run_id }}" --as-of "{{ ds | default('') }}" --json
If the folder /airflow/xcom exists, the result is also written to /airflow/xcom/return.json.

The token comes from UPLOADER_TOKEN, UPLOADER_TOKEN_FILE or --token-file. Every option is also a variable
UPLOADER_<NAME> (UPLOADER_TRANSFERS=8, UPLOADER_WAIT=false) and, except --config and --result-file, a key of the config file
({"url": "...", "tokenFile": "...", "transfers": 8}); options override the environment, which overrides the file.

Exit codes; with several runs the first of 1, 2, 77, 66, 65, 75, 0 that occurs:
    0  published, now or before, or loaded and behind a later run, which is named (with --require-shown: 65);
       with --no-wait: received
   65  the data is at fault, or a gate holds the run: a human must act
   66  the source is missing, incomplete, or changed while it was sent
   75  network, service busy or out of time: run the same command again; it sends only what is missing
   77  the token is not allowed to do this
    2  usage or configuration       1  a bug of the uploader       130, 143  stopped by a signal: run it again
`;

function addPush(program: Command, { terminal, interrupt, finish }: CliContext): void {
  addCommand(program, 'push')
    .argument('<dir>', 'folder that holds the runs', notEmpty)
    .summary('send runs and wait until they are published')
    .description(
      'Makes runs in the service equal to local folders. Safe to repeat: sends only what is missing.',
    )
    .addHelpText('after', PUSH_EXAMPLES)
    .action(async (dir: string, options: Options) => {
      finish(await push(dir, flagsOf(options), terminal, interrupt));
    });
}

const STATUS_EXAMPLES = `
Examples:
  uploader status                              the newest runs of all models
  uploader status churn                        the newest runs of one model
  uploader status --state failed --limit 500   up to 500 that failed
  uploader status churn 2026-11                one run, and what is wrong with it
  uploader status churn 2026-11 --wait         the same, when it has ended

Exit codes for one run: 0 published, or loaded and behind a later run, which is named (65 with
--require-shown); 65 failed, held or cancelled; 75 not ended yet, or unknown to the service. In Airflow, as a sensor
that occupies no worker:
  BashSensor(bash_command='uploader status churn "{{ run_id }}"', retry_exit_code=75, mode="reschedule", ...)
`;

const PUBLISH_EXAMPLES = `
Examples:
  uploader publish churn 2026-10 --reason "2026-11 was scored with the wrong features"
  uploader publish churn 2026-11 --force --reason "row count checked with the team, TICKET-17"

The audit log keeps who did it, when and why. Needs a token with the scope operate. Exit codes as for push; also
65 if the state of the run does not allow it, 75 while it is being loaded, 2 if the model has no such run or revision.
`;

/** The commands that act on runs in the service. */
function addServiceCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
  addCommand(program, 'status')
    .argument('[model]', undefined, notEmpty)
    .argument('[run]', undefined, notEmpty)
    .summary('show runs, or the state of one run')
    .description('Shows the newest runs, those of a model, or one run.')
    .option('--wait', 'wait until the run has ended')
    .option('--limit <count>', 'of a list: at most this many runs (default: 50)', wholeNumber)
    .addOption(new Option('--state <state>', 'of a list: only runs in this state').choices(RUN_STATE.options))
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

  addCommand(program, 'publish')
    .argument('<model>', undefined, notEmpty)
    .argument('<run>', undefined, notEmpty)
    .summary('show readers another run: a held or an older one')
    .description('Makes a loaded run the one that readers see. No data is moved.')
    .requiredOption('--reason <text>', 'why; the audit log keeps it')
    .option('--revision <number>', 'this revision (default: the newest of the run)', wholeNumber)
    .option('--force', 'although it breaks a gate')
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

  addCommand(program, 'retry')
    .argument('<model>', undefined, notEmpty)
    .argument('<run>', undefined, notEmpty)
    .summary('load a failed run again')
    .description(
      'Loads a failed run again from the files that the service has, and waits for its end. For new data push instead.',
    )
    .option('--reason <text>', 'why; the audit log keeps it')
    .addHelpText(
      'after',
      '\nExample:\n  uploader retry churn 2026-11 --reason "the limit was too low, and is raised now"',
    )
    .action(async (model: string, run: string, { reason, ...options }: Options) => {
      finish(await retry({ model, run, reason: textOf(reason) }, flagsOf(options), terminal, interrupt));
    });
}

/** `uploader withdraw`, the only command here that ends a run. */
function addWithdraw(program: Command, { terminal, interrupt, finish }: CliContext): void {
  addCommand(program, 'withdraw')
    .argument('<model>', undefined, notEmpty)
    .argument('<run>', undefined, notEmpty)
    .summary('cancel a run that readers do not see')
    .description(
      'Cancels a run that is not published: nothing of it is loaded any more, and its files are deleted later. To end what readers see, publish another run first.',
    )
    .option('--reason <text>', 'why; the audit log keeps it')
    .option('--revision <number>', 'this revision (default: the newest of the run)', wholeNumber)
    .addHelpText(
      'after',
      '\nExample:\n  uploader withdraw churn 2026-11 --reason "pushed for the wrong month"\n\nA run that was withdrawn is pushed again like a new one. Safe to repeat.',
    )
    .action(async (model: string, run: string, given: Options & { revision?: string }) => {
      const { reason, revision, ...options } = given;
      const request = {
        model,
        run,
        ...(reason === undefined ? {} : { reason: String(reason) }),
        ...(revision === undefined ? {} : { revision: Number(revision) }),
      };
      finish(await withdraw(request, flagsOf(options), terminal, interrupt));
    });
}

/** As a path, '' would be the current folder, or not set; as a model, all of them. */
function notEmpty(text: string): string {
  if (text !== '') return text;
  throw new InvalidArgumentError('It is empty. If it comes from a variable of the shell, that is not set.');
}

function wholeNumber(text: string): string {
  if (/^[1-9]\d{0,8}$/.test(text)) return text;
  throw new InvalidArgumentError('It must be a whole number, 1 or more.');
}

const CHECK_EXAMPLES = `
Examples:
  uploader check scores                                     every run of scores/<model>/<run>/*.jsonl
  uploader check out --model churn --run 2026-11 --json     one folder, the report as JSON
  uploader check scores/churn --model churn --contract churn.json
                                                            attributes too, as a contract declares them

The lines are read by the same scanner that the service uses. Only the service finds two lines with the same pk.
Exit codes: 0 no line would be rejected, 65 some would, 66 the source cannot be read, 2 usage.
`;

const WATCH_EXAMPLES = `
A run is pushed when its folder has a file named _SUCCESS, and not before:
  cp part-*.jsonl scores/churn/2026-11/ && touch scores/churn/2026-11/_SUCCESS

Examples:
  uploader watch scores                                     scores/<model>/<run>/_SUCCESS
  uploader watch scores/churn --model churn --json          scores/churn/<run>/_SUCCESS, one line of JSON per run

Each marker is pushed once, also across restarts; write the marker again to push again. SIGTERM or SIGINT
ends the command (143, 130), and it ends with 66 when the folder is removed, renamed or replaced; the next start
continues. On network file systems that do not report changes set CHOKIDAR_USEPOLLING=1.
`;

/** The commands that start from a local folder, besides `push`. */
function addLocalCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
  addCommand(program, 'check')
    .argument('<dir>', 'folder that holds the runs', notEmpty)
    .summary('list the lines that the service would reject, without sending any')
    .description('Reads every line as the service does. Needs no service and no token.')
    .option(
      '--contract <file>',
      'check the attributes that this contract of the model declares (JSON, as GET /v1/models/MODEL answers it); its gates are not checked',
      notEmpty,
    )
    .addHelpText('after', CHECK_EXAMPLES)
    .action(async (dir: string, given: Options) => {
      const { contract, ...options } = given;
      finish(await check(dir, textOf(contract), flagsOf(options), terminal, interrupt));
    });

  addCommand(program, 'watch')
    .argument('<dir>', 'folder in which runs appear', notEmpty)
    .summary('push each run when its _SUCCESS file appears, until stopped')
    .description('Pushes each run when its _SUCCESS file appears, and prints a line when the run has ended.')
    .addHelpText('after', WATCH_EXAMPLES)
    .action((dir: string, options: Options) => watch(dir, flagsOf(options), terminal, interrupt));
}
