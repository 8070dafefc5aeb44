import { type CheckedRun, checkRun } from '../check/check-run.ts';
import {
  type CommandResult,
  describeIgnored,
  type Ignored,
  ignoredOf,
  type RunError,
  WORD_OF,
} from '../command-result.ts';
import { EXIT_CODE_OF, type ExitCode, worstExitCode } from '../exit-codes.ts';
import { formatBytes, formatCount, formatDuration } from '../progress/format.ts';
import { newRunView } from '../progress/push-view.ts';
import { startReporter } from '../progress/start-reporter.ts';
import { describeBadLines, errorOf, errorOfAll, labelled } from '../push/outcome.ts';
import { newPushView } from '../push/push-runs.ts';
import { type Flags, loadLocalSettings } from '../settings/load-settings.ts';
import { findRuns } from '../source/find-runs.ts';
import type { Terminal } from '../terminal.ts';

/** A run that could not be read to its end has its `error`, and no counts. */
type UncheckedRun = { model: string; run: string; error: RunError };
export type CheckResult = CommandResult & { runs: Array<CheckedRun | UncheckedRun>; ignored?: Ignored };

/** `uploader check DIR`: what the service would say of each line, without a service. */
export async function check(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<CheckResult> {
  const settings = loadLocalSettings(flags, terminal.env);
  const { runs, faults, ignored } = await findRuns(dir, settings.model, settings.run, settings.ignore);
  const view = newPushView(runs);
  const reporter = await startReporter(terminal, view);
  const checked: CheckResult['runs'] = [];
  const codes: ExitCode[] = faults.map((fault) => errorOf(fault).exitCode);
  const sentences = faults.map((fault) => fault.message);
  try {
    for (const line of describeIgnored(ignored)) reporter.say(line);
    for (const [index, run] of runs.entries()) {
      const runView = view.runs[index] ?? newRunView(run.run, run.files.length);
      const startedAtMs = performance.now();
      try {
        runView.stage = 'checking';
        const one = await checkRun(run, runView, interrupt);
        checked.push(one);
        codes.push(one.rejects.total > 0 || one.rows === 0 ? EXIT_CODE_OF.data : 0);
        for (const line of describeBadLines(one)) reporter.say(line);
        sentences.push(describeChecked(one, performance.now() - startedAtMs));
      } catch (error) {
        const fault = errorOf(error);
        codes.push(fault.exitCode);
        checked.push({ model: run.model, run: run.run, error: fault.error });
        sentences.push(labelled(runView.label, fault.error.detail));
      } finally {
        runView.stage = 'done';
      }
    }
    for (const sentence of settings.json ? sentences : []) reporter.say(sentence);
  } finally {
    reporter.stop();
  }
  for (const sentence of settings.json ? [] : sentences) terminal.writeOut(`${sentence}\n`);
  const exitCode = worstExitCode(codes);
  const result = exitCode === 0 ? 'valid' : WORD_OF[exitCode];
  return { result, exitCode, runs: checked, ...errorOfAll(faults), ...ignoredOf(ignored) };
}

function describeChecked(run: CheckedRun, elapsedMs: number): string {
  const label = `${run.model}/${run.run}`;
  const what = `${formatCount(run.files, 'file')}, ${formatBytes(run.bytes)}, ${formatCount(run.lines, 'line')} in ${formatDuration(elapsedMs)}`;
  if (run.rejects.total > 0) {
    const codes = Object.entries(run.rejects.byCode).map(([code, count]) => `${count} ${code}`);
    return `${label}: ${formatCount(run.rejects.total, 'line')} would be refused (${codes.join(', ')}); ${what}.`;
  }
  if (run.rows === 0) return `${label}: there is no row in it, and a run without rows is refused; ${what}.`;
  return `${label}: no line would be refused, ${formatCount(run.rows, 'row')}; ${what}.`;
}
