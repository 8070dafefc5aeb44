import { constants } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { watch as watchPaths } from 'chokidar';
import { EXIT_CODE_OF, printable } from 'wire';
import { UploaderError, unreadableReason } from '../errors.ts';
import { pause, startTimeLimit } from '../http/exchange.ts';
import { type PushView, type Reporter, startReporter, type Terminal } from '../progress/view.ts';
import { newPushView, pushRuns } from '../push/push.ts';
import { describeIgnored, describeOutcome, errorOf, jsonText, type RunResult } from '../results.ts';
import { openPushContext, type PushContext } from '../send/context.ts';
import { type Flags, loadSettings } from '../settings/settings.ts';
import { replaceFile, stateFilePath } from '../settings/state.ts';
import { findRuns } from '../source/find-runs.ts';
import { type FileIdentity, identityOf } from '../source/hash.ts';
import { unreadableSource } from '../source/read.ts';

const TRY_AGAIN_AFTER_MS = 30_000;
/** After these exit codes the same marker is not pushed again. */
const SETTLED: readonly number[] = [0, EXIT_CODE_OF.data];

/**
 * `uploader watch DIR`: pushes each run when its marker appears, and prints a line for it, until a signal or the loss of
 * the folder ends it.
 */
export async function watch(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  stopped: AbortSignal,
): Promise<never> {
  const settings = loadSettings('watch', flags, terminal.env);
  const root = resolve(dir);
  const folder = await open(root, constants.O_RDONLY | constants.O_DIRECTORY).catch((error: unknown) => {
    throw unreadableSource(root, error);
  });
  const lost = new AbortController();
  const interrupt = AbortSignal.any([stopped, lost.signal]);
  const view: PushView = { startedAtMs: performance.now(), runs: [] };
  const reporter = await startReporter(terminal, view);
  const { say } = reporter;
  const context = await openPushContext(settings, terminal.env, interrupt, { say, warn: say });
  const print = (result: RunResult) => {
    const { outcome, exitCode } = result;
    const text = settings.json ? jsonText({ ...outcome, exitCode }) : describeOutcome(result);
    for (const sentence of result.badLines.sentences) say(sentence);
    reporter.aside(() => terminal.writeOut(`${text}\n`));
  };

  const running = new Map<string, Promise<void>>();
  const onMarker = (folder: string) => {
    const marked = markedRun(root, folder, settings.model, settings.run);
    if (!marked) return;
    // A marker that is written again while its run is pushed is checked after the push.
    const before = running.get(folder) ?? Promise.resolve();
    const after = before
      .then(() => pushMarked(root, marked, context, interrupt, { view, print, say }))
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
    return await refuseReplaced(root, folder, interrupt);
  } catch (error) {
    lost.abort(error);
    throw error;
  } finally {
    await Promise.all([stop(), ...running.values()]);
    await folder.close();
    reporter.stop();
  }
}

const FOLDER_CHECKED_EVERY_MS = 1000;

/**
 * Throws when `root` does not lead to `folder` any more: the watcher would see only what happens in the old folder. Also
 * when a parent was renamed, or a link points elsewhere. (While the old folder is open, no new one gets its inode number.)
 */
async function refuseReplaced(root: string, folder: FileHandle, signal: AbortSignal): Promise<never> {
  for (;;) {
    await pause(FOLDER_CHECKED_EVERY_MS, signal);
    let why: string | null;
    try {
      const [now, before] = [await stat(root, { bigint: true }), await folder.stat({ bigint: true })];
      why = now.ino === before.ino && now.dev === before.dev ? null : 'it was replaced';
    } catch (error) {
      why = unreadableReason(error);
    }
    if (why === null) continue;
    const what = `${printable(root)} is no longer watched: ${why}.`;
    throw new UploaderError('source', `${what} Start watch again when the folder is there.`);
  }
}

/** Pushes until the run has ended, or a human must act. */
async function pushMarked(
  root: string,
  marked: MarkedRun,
  shared: PushContext,
  interrupt: AbortSignal,
  { view, print, say }: { view: PushView; print: (result: RunResult) => void; say: Reporter['say'] },
): Promise<void> {
  for (;;) {
    interrupt.throwIfAborted();
    const marker = await markerOf(marked.folder);
    if (!marker || (await wasPushed(shared.stateDir, marked.folder, marker))) return;
    const { settings } = shared;
    const { runs, ignored } = await findRuns(marked.folder, marked.model, marked.run, settings.ignore, root);
    for (const line of describeIgnored(ignored)) say(`${marked.model}/${marked.run}: ${line}`);
    const limit = startTimeLimit(settings.maxDurationMs, interrupt);
    const mine = newPushView(runs);
    view.runs.push(...mine.runs);
    const [result] = await pushRuns(runs, mine, { ...shared, limit });
    view.runs = view.runs.filter((run) => !mine.runs.includes(run));
    if (!result || interrupt.aborted) return;
    print(result);
    if (SETTLED.includes(result.exitCode)) {
      await rememberPushed(shared.stateDir, marked.folder, marker);
      return;
    }
    if (result.exitCode !== EXIT_CODE_OF.try_again) {
      say(
        `${marked.model}/${marked.run}: not pushed again until its ${MARKER} is written again or watch is started again`,
      );
      return;
    }
    await pause(TRY_AGAIN_AFTER_MS, interrupt);
  }
}

type MarkedRun = { folder: string; model: string; run: string };

/** The number of folder levels between DIR and the files: what the flags do not name. */
function layoutDepth(model: string | null, run: string | null): number {
  return (model === null ? 1 : 0) + (run === null ? 1 : 0);
}

/** The run of a marker's folder; null when the folder is not at the level of runs. */
function markedRun(root: string, folder: string, model: string | null, run: string | null): MarkedRun | null {
  const path = relative(root, folder);
  const names = path === '' ? [] : path.split(sep);
  if (names.length !== layoutDepth(model, run)) return null;
  const [first = '', second = ''] = names;
  return { folder, model: model ?? first, run: run ?? (model === null ? second : first) };
}

/** Reports every marker that exists, appears or is written again, until it is stopped. */
function watchMarkers(
  root: string,
  depth: number,
  handlers: { onMarker: (folder: string) => void; onError: (error: unknown) => void },
): () => Promise<void> {
  const watcher = watchPaths(root, {
    depth,
    // There may be thousands of data files; only folders and markers matter.
    ignored: (path, stats) => stats?.isFile() === true && basename(path) !== MARKER,
  });
  watcher.on('add', (path) => handlers.onMarker(dirname(path)));
  watcher.on('change', (path) => handlers.onMarker(dirname(path)));
  watcher.on('error', handlers.onError);
  return () => watcher.close();
}

/** The file that marks the folder of a run as complete, as Spark and Hadoop write it. */
const MARKER = '_SUCCESS';

/** null: the folder has no marker. */
async function markerOf(folder: string): Promise<FileIdentity | null> {
  try {
    return identityOf(await stat(join(folder, MARKER), { bigint: true }));
  } catch {
    return null;
  }
}

/**
 * Whether the push of this marker has ended. Without a state folder, or when it was deleted, the run is
 * pushed again, which sends nothing.
 */
async function wasPushed(stateDir: string | null, folder: string, marker: FileIdentity): Promise<boolean> {
  if (stateDir === null) return false;
  const known = await readFile(stateFilePath(stateDir, folder, '.pushed.json'), 'utf8').catch(() => '');
  return known === textOf(marker);
}

async function rememberPushed(stateDir: string | null, folder: string, marker: FileIdentity): Promise<void> {
  if (stateDir === null) return;
  await replaceFile(stateFilePath(stateDir, folder, '.pushed.json'), textOf(marker)).catch(() => {});
}

const textOf = (marker: FileIdentity): string => JSON.stringify(marker);
