import { type ExitCode, worstExitCode } from '../exit-codes.ts';
import { formatBytes, formatCount, formatDuration } from '../progress/format.ts';
import type { RunError, RunOutcome, RunResult } from './outcome.ts';

/** The whole command's end, in the words of its JSON. */
export type ResultWord =
  | 'published'
  | 'received'
  | 'bad_data'
  | 'source'
  | 'try_again'
  | 'not_allowed'
  | 'usage'
  | 'bug'
  | 'interrupted';

export type PushResult = { result: ResultWord; exitCode: ExitCode; runs: RunOutcome[]; error?: RunError };

const WORD_OF: Record<ExitCode, ResultWord> = {
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

/** What ended the command before there were runs to speak of. */
export function resultOfFault(error: RunError, exitCode: ExitCode): PushResult {
  return { result: WORD_OF[exitCode], exitCode, runs: [], error };
}

export function resultOfRuns(results: RunResult[]): PushResult {
  const exitCode = worstExitCode(results.map((result) => result.exitCode));
  const runs = results.map((result) => result.outcome);
  const unsettled = runs.some((run) => run.state !== 'published' && run.state !== 'superseded');
  return { result: exitCode === 0 && unsettled ? 'received' : WORD_OF[exitCode], exitCode, runs };
}

/** One run's end for a person. */
export function describeOutcome(run: RunOutcome): string {
  const label = `${run.model}/${run.run}${run.revision === null ? '' : ` revision ${run.revision}`}`;
  const state =
    run.state === 'failed' ? 'failed' : `is ${run.state === 'receiving' ? 'received' : run.state}`;
  if (run.error) {
    const { detail, file, line } = run.error;
    const place = line === undefined ? '' : ` (${file ?? '?'}:${line})`;
    // A fault on the way here says nothing of the state that the run has there.
    const settled = run.state === 'failed' || run.state === 'held' || run.state === 'cancelled';
    return `${label}${settled ? ` ${state}` : ''}: ${detail}${place}`;
  }
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const sent = run.bytesSent === 0 ? 'nothing had to be sent' : `${formatBytes(run.bytesSent)} sent`;
  return `${label} ${state}${rows}; ${sent} in ${formatDuration(run.seconds * 1000)}.`;
}
