/**
 * What went wrong, in the words that decide what the caller does next. The exit codes are those of sysexits(3) where one
 * fits, so that a scheduler can tell "run it again" (75) from "a human must act" (65).
 */
export type FaultKind = 'bug' | 'usage' | 'data' | 'source' | 'try_again' | 'not_allowed';

export type ExitCode = 0 | 1 | 2 | 65 | 66 | 75 | 77 | 130 | 143;

export const EXIT_CODE_OF: Readonly<Record<FaultKind, ExitCode>> = {
  bug: 1,
  usage: 2,
  data: 65,
  source: 66,
  try_again: 75,
  not_allowed: 77,
};
