import './bound-memory.ts';
import { CommanderError } from 'commander';
import { EXIT_CODE_OF, type ExitCode, printableLines } from 'wire';
import { createProgram } from './cli.ts';
import { Interrupted } from './errors.ts';
import type { Terminal } from './progress/view.ts';
import {
  type CommandResult,
  errorOf,
  findResultFiles,
  jsonText,
  resultOfFault,
  writeResultFile,
} from './results.ts';
import { type Flags, wantsJson } from './settings/settings.ts';

/** After a signal the process ends within this time, whatever still hangs. */
const STOP_WITHIN_MS = 1500;

const terminal: Terminal = {
  env: process.env,
  writeOut: (text) => process.stdout.write(printableLines(text)),
  writeError: (text) => process.stderr.write(printableLines(text)),
  // A terminal without a width (a pseudo-terminal of a CI runner) is a log.
  errorTty:
    process.stderr.isTTY && process.stderr.columns > 0 && process.env.TERM !== 'dumb' ? process.stderr : null,
};
/** Until the options are read: what the arguments and the environment say. */
let json = process.argv.includes('--json') || wantsJson({}, process.env);

/** The first output that could not be written; the exit code must then not be 0. */
let lost: string | null = null;
// A reader that went away (`| head`) ends what is shown, not what is pushed.
process.stdout.on('error', (error) => {
  lost ??= `stdout: ${error.message}`;
});
// The result is on stdout and in files: progress that cannot be shown changes nothing.
process.stderr.on('error', () => {});

const interrupt = new AbortController();
for (const signalName of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signalName, () => {
    const stopped = new Interrupted(signalName);
    // The second signal, or one while the result waits for its reader.
    if (hasEnded) process.exit(signalName === 'SIGINT' ? 130 : 143);
    if (interrupt.signal.aborted) end(resultOfError(stopped));
    interrupt.abort(stopped);
    setTimeout(() => {
      end(resultOfError(stopped));
      setTimeout(() => process.exit(signalName === 'SIGINT' ? 130 : 143), STOP_WITHIN_MS);
    }, STOP_WITHIN_MS);
  });
}

process.on('uncaughtException', (error) => end(resultOfError(error)));

function resultOfError(error: unknown): CommandResult {
  const fault = errorOf(error);
  process.stderr.write(printableLines(`uploader: ${fault.error.detail}\n`));
  return resultOfFault(fault.error, fault.exitCode);
}

let hasEnded = false;

function end(result: CommandResult): void {
  if (hasEnded) return;
  hasEnded = true;
  // Until the result is written: whatever ends the process from here on, it must not end with 0.
  process.exitCode = result.exitCode || EXIT_CODE_OF.bug;
  // Each line of watch is the result of a run: it has none of its own.
  if (process.argv[2] === 'watch') {
    exitWhenWritten(result.exitCode, '');
    return;
  }
  const text = jsonText(result);
  for (const path of findResultFiles(process.argv, process.env)) {
    try {
      writeResultFile(path, `${text}\n`);
    } catch (error) {
      lost ??= `${path}: ${error instanceof Error ? error.message : error}`;
    }
  }
  exitWhenWritten(result.exitCode, json ? `${text}\n` : '');
}

/**
 * Ends the process when all that was written has been taken: process.exit() would cut a pipe at 64 KiB. A
 * signal ends it when nobody reads.
 */
function exitWhenWritten(exitCode: ExitCode, lastText: string): void {
  process.stdout.write(lastText, (error) => {
    // The callback comes before the event of the same fault.
    if (error) lost ??= `stdout: ${error.message}`;
    if (lost !== null) process.stderr.write(`uploader: The output could not be written (${lost}).\n`);
    process.stderr.write('', () => {
      process.exit(lost !== null && exitCode === 0 ? EXIT_CODE_OF.try_again : exitCode);
    });
  });
}

try {
  const begin = (flags: Flags) => {
    json = wantsJson(flags, process.env);
  };
  await createProgram({ terminal, interrupt: interrupt.signal, begin, finish: end }).parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) end(resultOfError(error));
  // --help and --version end this way too; usage errors have been written by commander.
  else if (error.exitCode === 0) exitWhenWritten(0, '');
  else end(resultOfFault({ code: 'usage', detail: error.message.replace(/^error: /, '') }, 2));
}
