import { startTimeLimit } from '../net/time-limit.ts';
import { plainProgress } from '../progress/plain-progress.ts';
import type { PushView } from '../progress/push-view.ts';
import type { Reporter } from '../progress/reporter.ts';
import { createPushContext } from '../push/push-context.ts';
import { describeOutcome, type PushResult, resultOfRuns } from '../push/push-result.ts';
import { newPushView, pushRuns } from '../push/push-runs.ts';
import { sourceInfo } from '../push/source-info.ts';
import { type Flags, loadSettings, type Settings } from '../settings/load-settings.ts';
import { findStateDir } from '../settings/state-dir.ts';
import { findRuns } from '../source/find-runs.ts';
import type { Terminal } from '../terminal.ts';
import { uploaderVersion } from '../version.ts';

/** `uploader push DIR`. Throws when nothing could be begun; else each run's end is in the result. */
export async function push(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<PushResult> {
  const { env } = terminal;
  const settings = loadSettings(flags, env);
  const version = uploaderVersion();
  const { runs, warnings } = await findRuns(dir, settings.model, settings.run);
  const view = newPushView(runs);
  const reporter = await startReporter(terminal, view);
  try {
    for (const warning of warnings) reporter.say(`Warning: ${warning}`);
    const context = createPushContext({
      settings,
      service: serviceAddress(settings, version),
      source: sourceInfo(env, version),
      limit: startTimeLimit(settings.maxDurationMs, interrupt),
      say: reporter.say,
      stateDir: findStateDir(settings.stateDir, env),
    });
    const results = await pushRuns(runs, view, context);
    for (const line of results.flatMap((result) => result.badLines)) reporter.say(line);
    const result = resultOfRuns(results);
    const sentences = result.runs.map(describeOutcome);
    // With --json stdout is for the machine, and the sentences go where progress goes.
    for (const sentence of settings.json ? sentences : []) reporter.say(sentence);
    reporter.stop();
    for (const sentence of settings.json ? [] : sentences) terminal.writeOut(`${sentence}\n`);
    return result;
  } finally {
    reporter.stop();
  }
}

function serviceAddress(settings: Settings, version: string) {
  const { url, token, stallTimeoutMs } = settings;
  return { url, token, stallTimeoutMs, userAgent: `uploader/${version}` };
}

async function startReporter(terminal: Terminal, view: PushView): Promise<Reporter> {
  if (!terminal.errorTty) return plainProgress(terminal.writeError, view);
  // Loaded only where there is a terminal: a scheduler's run need not wait for it.
  const { liveProgress } = await import('../progress/live-progress.ts');
  return liveProgress(terminal.errorTty, view);
}
