import { type CommandResult, type Ignored, type ResultWord, WORD_OF } from '../command-result.ts';
import { worstExitCode } from '../exit-codes.ts';
import { formatBytes, formatCount, formatDuration } from '../progress/format.ts';
import type { UploaderError } from '../uploader-error.ts';
import { errorOf, errorOfAll, labelled, type RunOutcome, type RunResult } from './outcome.ts';

export type PushResult = CommandResult & { runs: RunOutcome[]; ignored?: Ignored };

/** `faults` are about what belongs to no run. */
export function resultOfRuns(results: RunResult[], faults: readonly UploaderError[]): PushResult {
  const exitCode = worstExitCode([...results, ...faults.map(errorOf)].map((one) => one.exitCode));
  const runs = results.map((result) => result.outcome);
  return {
    result: exitCode === 0 ? wordOfAll(runs) : WORD_OF[exitCode],
    exitCode,
    runs,
    ...errorOfAll(faults),
  };
}

/** `published` when readers see each run, or a later one of its model that was pushed with it: twelve months, say. */
function wordOfAll(runs: readonly RunOutcome[]): ResultWord {
  if (runs.some((run) => run.result === 'received')) return 'received';
  const isShown = ({ model, result, shown }: RunOutcome) =>
    result === 'published' ||
    runs.some((other) => other.model === model && other.run === shown?.run && other.result === 'published');
  return runs.every(isShown) ? 'published' : 'superseded';
}

/** One run's end for a person. */
export function describeOutcome(run: RunOutcome): string {
  const label = `${run.model}/${run.run}${run.revision === null ? '' : ` revision ${run.revision}`}`;
  const state =
    run.state === 'failed' ? 'failed' : `is ${run.state === 'receiving' ? 'received' : run.state}`;
  if (run.error && run.error.code !== 'not_shown') {
    const { detail, file, line } = run.error;
    const told = line === undefined || (file !== undefined && detail.includes(file));
    const place = told ? '' : ` (${file ?? '?'}:${line})`;
    // A fault on the way here says nothing of the state that the run has there.
    const settled = run.state === 'failed' || run.state === 'held' || run.state === 'cancelled';
    return settled
      ? `${label} ${state}: ${detail}${place}${seenInstead(run)}`
      : `${labelled(label, detail)}${place}`;
  }
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const sent = run.bytesSent === 0 ? 'nothing had to be sent' : `${formatBytes(run.bytesSent)} sent`;
  const end = `${label} ${state}${rows}; ${sent}, ${formatDuration(run.seconds * 1000)} in all.`;
  return run.notShown === null ? end : `${end}\n${run.model}/${run.run} is ${run.notShown}`;
}

/** After a fault of the run: what it did not change. */
function seenInstead({ model, run, shown }: RunOutcome): string {
  if (shown === null) return ` Readers of scores.${model} see no run yet.`;
  return ` Readers of scores.${model} see ${shown.run === run ? `revision ${shown.revision} of this run` : shown.run}.`;
}
