import { type CommandResult, type Ignored, WORD_OF } from '../command-result.ts';
import { worstExitCode } from '../exit-codes.ts';
import { formatBytes, formatCount, formatDuration } from '../progress/format.ts';
import type { UploaderError } from '../uploader-error.ts';
import { errorOf, errorOfAll, labelled, type RunOutcome, type RunResult } from './outcome.ts';

export type PushResult = CommandResult & { runs: RunOutcome[]; ignored?: Ignored };

/** `faults` are about what belongs to no run. */
export function resultOfRuns(results: RunResult[], faults: readonly UploaderError[]): PushResult {
  const exitCode = worstExitCode([...results, ...faults.map(errorOf)].map((one) => one.exitCode));
  const runs = results.map((result) => result.outcome);
  const unsettled = runs.some((run) => run.state !== 'published' && run.state !== 'superseded');
  const result = exitCode === 0 && unsettled ? 'received' : WORD_OF[exitCode];
  return { result, exitCode, runs, ...errorOfAll(faults) };
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
    return settled ? `${label} ${state}: ${detail}${place}` : `${labelled(label, detail)}${place}`;
  }
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const sent = run.bytesSent === 0 ? 'nothing had to be sent' : `${formatBytes(run.bytesSent)} sent`;
  return `${label} ${state}${rows}; ${sent}, ${formatDuration(run.seconds * 1000)} in all.`;
}
