import './bound-memory.ts';

import { CommanderError } from 'commander';
import { createProgram } from './cli.ts';
import { type CommandResult, resultOfFault } from './command-result.ts';
import { errorOf } from './push/outcome.ts';
import { findResultFiles, writeResultFile } from './result-files.ts';
import type { Terminal } from './terminal.ts';
import { Interrupted } from './uploader-error.ts';

/** After a signal the process ends within this time, whatever still hangs. */
const STOP_WITHIN_MS = 1500;

const terminal: Terminal = {
  env: process.env,
  writeOut: (text) => process.stdout.write(text),
  writeError: (text) => process.stderr.write(text),
  // A terminal without a width (a pseudo-terminal of a CI runner) is a log.
  errorTty:
    process.stderr.isTTY && process.stderr.columns > 0 && process.env.TERM !== 'dumb' ? process.stderr : null,
};
// Asked here and not of the settings, because the result is JSON also when the settings are what is wrong.
const wantsJson =
  process.argv.includes('--json') || /^(1|true|yes|on)$/i.test(process.env.UPLOADER_JSON ?? '');

// A reader that went away (`| head`) ends what is shown, not what is pushed.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

const interrupt = new AbortController();
for (const signalName of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signalName, () => {
    const stopped = new Interrupted(signalName);
    if (interrupt.signal.aborted) end(resultOfError(stopped));
    interrupt.abort(stopped);
    setTimeout(() => end(resultOfError(stopped)), STOP_WITHIN_MS);
  });
}

process.on('uncaughtException', (error) => end(resultOfError(error)));

function resultOfError(error: unknown): CommandResult {
  const fault = errorOf(error);
  process.stderr.write(`uploader: ${fault.error.detail}\n`);
  return resultOfFault(fault.error, fault.exitCode);
}

function end(result: CommandResult): void {
  const text = JSON.stringify(result);
  for (const path of findResultFiles(process.argv, process.env)) {
    try {
      writeResultFile(path, `${text}\n`);
    } catch (error) {
      process.stderr.write(`uploader: The result could not be written to ${path}: ${error}.\n`);
    }
  }
  if (wantsJson) process.stdout.write(`${text}\n`);
  process.exit(result.exitCode);
}

try {
  await createProgram({ terminal, interrupt: interrupt.signal, finish: end }).parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) end(resultOfError(error));
  // --help and --version end this way too; usage errors have been written by commander.
  else if (error.exitCode === 0) process.exit(0);
  else end(resultOfFault({ code: 'usage', detail: error.message.replace(/^error: /, '') }, 2));
}
