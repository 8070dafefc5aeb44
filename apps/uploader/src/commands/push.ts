import { describeIgnored, ignoredOf } from '../command-result.ts';
import { startTimeLimit } from '../net/time-limit.ts';
import { startReporter } from '../progress/start-reporter.ts';
import { describePlan, type PlanResult, planRuns } from '../push/plan-runs.ts';
import { createPushContext } from '../push/push-context.ts';
import { describeOutcome, type PushResult, resultOfRuns } from '../push/push-result.ts';
import { newPushView, pushRuns } from '../push/push-runs.ts';
import { sourceInfo } from '../push/source-info.ts';
import { type Flags, loadSettings } from '../settings/load-settings.ts';
import { openStateDir } from '../settings/state-dir.ts';
import { findRuns } from '../source/find-runs.ts';
import type { Terminal } from '../terminal.ts';
import { UploaderError } from '../uploader-error.ts';
import { uploaderVersion } from '../version.ts';
import { serviceAddress } from './service-session.ts';

/** `uploader push DIR`. Throws when nothing could be begun; else each run's end is in the result. */
export async function push(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<PushResult | PlanResult> {
  const { env } = terminal;
  const settings = loadSettings(flags, env);
  if (settings.requireShown && !settings.wait) {
    throw new UploaderError(
      'usage',
      '--require-shown waits until readers see the run, and --no-wait does not wait: use one of them.',
    );
  }
  const { runs, faults, ignored } = await findRuns(dir, settings.model, settings.run, settings.ignore);
  const view = newPushView(runs);
  const reporter = await startReporter(terminal, view);
  try {
    for (const line of describeIgnored(ignored)) reporter.say(line);
    const context = createPushContext({
      settings,
      service: serviceAddress(settings),
      source: sourceInfo(env, uploaderVersion()),
      limit: startTimeLimit(settings.maxDurationMs, interrupt),
      say: reporter.say,
      stateDir: await openStateDir(settings.stateDir, env, reporter.say),
    });
    const tell = (sentences: string[]) => {
      // With --json stdout is for the machine, and the sentences go where progress goes.
      for (const sentence of settings.json ? sentences : []) reporter.say(sentence);
      reporter.stop();
      for (const sentence of settings.json ? [] : sentences) terminal.writeOut(`${sentence}\n`);
    };
    if (settings.dryRun) {
      const plan = await planRuns(runs, faults, view, context);
      tell([...faults.map((fault) => fault.message), ...plan.runs.map(describePlan)]);
      return { ...plan, ...ignoredOf(ignored) };
    }
    const results = await pushRuns(runs, view, context);
    for (const line of results.flatMap((result) => result.badLines)) reporter.say(line);
    const result = resultOfRuns(results, faults);
    tell([...faults.map((fault) => fault.message), ...result.runs.map(describeOutcome)]);
    return { ...result, ...ignoredOf(ignored) };
  } finally {
    reporter.stop();
  }
}
