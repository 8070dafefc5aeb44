import { CommanderError } from 'commander';
import { UnusableDatabase } from 'db-schema';
import { isRetryable } from 'wire';
import { IngestError, UsageError } from '../errors.ts';
import { WrongStore } from '../store/store.ts';

export const EXIT_FAULT = 1;
const EXIT_USAGE = 2;
/** As the uploader: the data is at fault, or is not there. */
export const EXIT_DIFFERS = 65;
export const EXIT_NOT_THERE = 66;

/** Of all commands; `--help` and docs/errors.md show them. */
export const EXIT_CODES: Readonly<Record<number, string>> = {
  0: 'done; `serve` and `load`: stopped by SIGINT or SIGTERM',
  [EXIT_FAULT]:
    'a fault of the database, the store, the output or the program; the last line on stderr describes it',
  [EXIT_USAGE]:
    'wrong arguments, or a name that does not exist; wrong variables, all named at once; a database that cannot be used; a store of another database',
  [EXIT_DIFFERS]: '`verify`: something differs; the lines that begin with `DIFFERS` say what',
  [EXIT_NOT_THERE]: '`verify`: no run with rows has this name',
};

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  const isUsage =
    error instanceof UsageError ||
    error instanceof UnusableDatabase ||
    error instanceof WrongStore ||
    (error instanceof IngestError && !isRetryable(error.code));
  return isUsage ? EXIT_USAGE : EXIT_FAULT;
}
