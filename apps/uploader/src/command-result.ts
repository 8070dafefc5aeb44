import type { ExitCode } from './exit-codes.ts';

export type ResultWord =
  | 'published'
  | 'received'
  | 'listed'
  | 'valid'
  | 'dry_run'
  | 'bad_data'
  | 'source'
  | 'try_again'
  | 'not_allowed'
  | 'usage'
  | 'bug'
  | 'interrupted';

export type RunError = { code: string; detail: string; file?: string; line?: number; byte_offset?: number };

/** A command's end, as --json prints it; each command adds what it has found. */
export type CommandResult = { result: ResultWord; exitCode: ExitCode; error?: RunError };

export const WORD_OF: Record<ExitCode, ResultWord> = {
  0: 'published',
  1: 'bug',
  2: 'usage',
  65: 'bad_data',
  66: 'source',
  75: 'try_again',
  77: 'not_allowed',
  130: 'interrupted',
  143: 'interrupted',
};

/** What ended the command before there was anything else to tell. */
export function resultOfFault(error: RunError, exitCode: ExitCode): CommandResult & { runs: [] } {
  return { result: WORD_OF[exitCode], exitCode, runs: [], error };
}
