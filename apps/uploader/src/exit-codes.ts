/**
 * What went wrong, in the words that decide what the caller should do next. The exit codes are sysexits(3)
 * where one fits, so that a scheduler can tell "run it again" (75) from "a human must act".
 */
export type FaultKind = 'bug' | 'usage' | 'data' | 'source' | 'try_again' | 'not_allowed';

export type ExitCode = 0 | 1 | 2 | 65 | 66 | 75 | 77 | 130 | 143;

export const EXIT_CODE_OF: Record<FaultKind, ExitCode> = {
  bug: 1,
  usage: 2,
  data: 65,
  source: 66,
  try_again: 75,
  not_allowed: 77,
};

/**
 * Several runs, one exit code. 75 promises that the same command again is enough, so it is told only when
 * nothing else is wrong; among the rest, what hides the most comes first.
 */
const WORST_FIRST: readonly ExitCode[] = [130, 143, 1, 2, 77, 66, 65, 75, 0];

export function worstExitCode(codes: readonly ExitCode[]): ExitCode {
  return WORST_FIRST.find((code) => codes.includes(code)) ?? 0;
}
