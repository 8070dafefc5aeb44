import type { ExitCode } from './exit-codes.ts';

export type ResultWord =
  | 'published'
  | 'superseded'
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

/** What --ignore left out; the first paths, and how many there are in all. */
export type Ignored = { count: number; first: string[] };

const SHOWN_IGNORED = 20;

/** For the result: nothing when nothing was left out. */
export function ignoredOf(paths: readonly string[]): { ignored?: Ignored } {
  if (paths.length === 0) return {};
  return { ignored: { count: paths.length, first: paths.slice(0, SHOWN_IGNORED) } };
}

export function describeIgnored(paths: readonly string[]): string[] {
  if (paths.length === 0) return [];
  const more = paths.length > SHOWN_IGNORED ? `, and ${paths.length - SHOWN_IGNORED} more` : '';
  return [`Left out by --ignore: ${paths.slice(0, SHOWN_IGNORED).join(', ')}${more}`];
}

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
