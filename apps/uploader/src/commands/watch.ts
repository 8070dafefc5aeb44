import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { describeIgnored } from '../command-result.ts';
import { EXIT_CODE_OF } from '../exit-codes.ts';
import { pause, startTimeLimit } from '../net/time-limit.ts';
import { formatDuration } from '../progress/format.ts';
import { errorOf, type RunResult } from '../push/outcome.ts';
import { createPushContext, type PushContext } from '../push/push-context.ts';
import { describeOutcome } from '../push/push-result.ts';
import { newPushView, pushRuns } from '../push/push-runs.ts';
import { sourceInfo } from '../push/source-info.ts';
import { type Flags, loadSettings } from '../settings/load-settings.ts';
import { openStateDir } from '../settings/state-dir.ts';
import { findRuns } from '../source/find-runs.ts';
import { unreadableSource } from '../source/source-fault.ts';
import type { Terminal } from '../terminal.ts';
import { uploaderVersion } from '../version.ts';
import { layoutDepth, type MarkedRun, markedRun } from '../watch/find-marked.ts';
import { MARKER, markerOf, rememberPushed, wasPushed } from '../watch/pushed-mark.ts';
import { watchMarkers } from '../watch/watch-markers.ts';
import { serviceAddress } from './service-session.ts';

const TRY_AGAIN_AFTER_MS = 30_000;
/** What the same marker need not be pushed for again. */
const SETTLED: readonly number[] = [0, EXIT_CODE_OF.data];

/** `uploader watch DIR`: pushes each run when its marker appears, a line a run, until a signal ends it. */
export async function watch(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<never> {
  const settings = loadSettings(flags, terminal.env);
  const root = resolve(dir);
  await stat(root).catch((error: unknown) => {
    throw unreadableSource(root, error);
  });
  const say = (sentence: string) => terminal.writeError(`${sentence}\n`);
  const shared = createPushContext({
    settings,
    service: serviceAddress(settings),
    source: sourceInfo(terminal.env, uploaderVersion()),
    limit: startTimeLimit(settings.maxDurationMs, interrupt),
    say: () => {}, // a line a run, and what is in its way
    stateDir: await openStateDir(settings.stateDir, terminal.env, say),
  });
  const context: PushContext = {
    ...shared,
    sayPause: (what, fault, pauseMs) =>
      say(`${what}: ${fault.message}; next try in ${formatDuration(pauseMs)}`),
  };
  const print = ({ outcome, exitCode }: RunResult) =>
    terminal.writeOut(
      settings.json ? `${JSON.stringify({ ...outcome, exitCode })}\n` : `${describeOutcome(outcome)}\n`,
    );

  const running = new Map<string, Promise<void>>();
  const onMarker = (folder: string) => {
    const marked = markedRun(root, folder, settings.model, settings.run);
    if (!marked) return;
    // A marker that is written again while its run is pushed is looked at after that.
    const before = running.get(folder) ?? Promise.resolve();
    const after = before
      .then(() => pushMarked(root, marked, context, interrupt, { print, say }))
      .catch((error: unknown) => {
        if (!interrupt.aborted) say(`${marked.model}/${marked.run}: ${errorOf(error).error.detail}`);
      });
    running.set(folder, after);
  };
  const stop = watchMarkers(root, layoutDepth(settings.model, settings.run), {
    onMarker,
    onError: (error) => say(`Watching ${root} failed: ${error instanceof Error ? error.message : error}.`),
  });
  say(`Watching ${root} for ${MARKER} files.`);
  try {
    await new Promise((_, reject) => {
      if (interrupt.aborted) reject(interrupt.reason);
      interrupt.addEventListener('abort', () => reject(interrupt.reason));
    });
  } finally {
    await Promise.all([stop(), ...running.values()]);
  }
  throw interrupt.reason;
}

/** Pushes until the run is settled, or a person has to act. */
async function pushMarked(
  root: string,
  marked: MarkedRun,
  shared: PushContext,
  interrupt: AbortSignal,
  { print, say }: { print: (result: RunResult) => void; say: (sentence: string) => void },
): Promise<void> {
  for (;;) {
    interrupt.throwIfAborted();
    const marker = await markerOf(marked.folder);
    if (!marker || (await wasPushed(shared.stateDir, marked.folder, marker))) return;
    const { settings } = shared;
    const { runs, ignored } = await findRuns(marked.folder, marked.model, marked.run, settings.ignore, root);
    for (const line of describeIgnored(ignored)) say(`${marked.model}/${marked.run}: ${line}`);
    const limit = startTimeLimit(settings.maxDurationMs, interrupt);
    const [result] = await pushRuns(runs, newPushView(runs), { ...shared, limit });
    if (!result || interrupt.aborted) return;
    print(result);
    if (SETTLED.includes(result.exitCode)) await rememberPushed(shared.stateDir, marked.folder, marker);
    if (result.exitCode !== EXIT_CODE_OF.try_again) return;
    await pause(TRY_AGAIN_AFTER_MS, interrupt);
  }
}
