import { type CommandResult, WORD_OF } from '../command-result.ts';
import { worstExitCode } from '../exit-codes.ts';
import { formatBytes, formatCount, formatDuration } from '../progress/format.ts';
import type { RunOutcome, RunResult } from './outcome.ts';

export type PushResult = CommandResult & { runs: RunOutcome[] };

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
    const told = line === undefined || (file !== undefined && detail.includes(file));
    const place = told ? '' : ` (${file ?? '?'}:${line})`;
    // A fault on the way here says nothing of the state that the run has there.
    const settled = run.state === 'failed' || run.state === 'held' || run.state === 'cancelled';
    return `${label}${settled ? ` ${state}` : ''}: ${detail}${place}`;
  }
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const sent = run.bytesSent === 0 ? 'nothing had to be sent' : `${formatBytes(run.bytesSent)} sent`;
  return `${label} ${state}${rows}; ${sent}, ${formatDuration(run.seconds * 1000)} in all.`;
}
