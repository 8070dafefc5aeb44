import { type Command, InvalidArgumentError, Option } from 'commander';
import { publish } from '../commands/publish.ts';
import { retry } from '../commands/retry.ts';
import { status } from '../commands/status.ts';
import { RUN_STATES } from '../service/run-schema.ts';
import { type CliContext, flagsOf, type Options, textOf } from './cli-context.ts';
import { addPollOption, addResultOptions, addServiceOptions } from './common-options.ts';

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
export function addServiceCommands(program: Command, { terminal, interrupt, finish }: CliContext): void {
  const statusCommand = program
    .command('status')
    .argument('[model]')
    .argument('[run]')
    .summary('show runs, or one run and how it stands')
    .description('Shows the newest runs, those of a model, or one run.')
    .option('--wait', 'wait until the run is settled')
    .option('--require-shown', 'of one run: end with 65 if it is loaded and readers see another one')
    .option('--limit <count>', 'of a list: at most this many runs (default: 50)', wholeNumber)
    .addOption(new Option('--state <state>', 'of a list: only runs in this state').choices(RUN_STATES));
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
