import { UploaderError } from '../errors.ts';
import { pause } from '../http/exchange.ts';
import { judge } from '../http/verdict.ts';
import {
  describeChange,
  describeDeclared,
  newRunView,
  type PushView,
  type RunView,
  startReporter,
  type Terminal,
} from '../progress/view.ts';
import {
  describeBadLines,
  describeIgnored,
  describeOutcome,
  describeRuns,
  describeShown,
  errorOf,
  ignoredOf,
  type PushResult,
  type RunResult,
  resultOfRuns,
  settlementOf,
  WORD_OF,
} from '../results.ts';
import { openPushContext, type PushContext } from '../send/context.ts';
import { sendMissingFiles } from '../send/missing-files.ts';
import {
  declareRun,
  EXIT_CODE_OF_STATE,
  findRun,
  type Manifest,
  pageUrl,
  type Run,
  readCancellation,
  rejectsUrl,
} from '../service/client.ts';
import { type Flags, loadSettings } from '../settings/settings.ts';
import { withRunLock } from '../settings/state.ts';
import { findRuns, type SourceRun } from '../source/find-runs.ts';
import { type HashedFile, hashRun, openHashCache } from '../source/hash.ts';
import { describePlan, type PlanResult, planRuns } from './plan.ts';

/** `uploader push DIR`. Throws when it could not start; otherwise the result says how each run ended. */
export async function push(
  dir: string,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<PushResult | PlanResult> {
  const { env } = terminal;
  const settings = loadSettings('push', flags, env);
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
    const { say } = reporter;
    const context = await openPushContext(settings, env, interrupt, { say, warn: say });
    const print = (sentences: string[]) => {
      // With --json stdout is for the machine, and the sentences go where progress goes.
      for (const sentence of settings.json ? sentences : []) reporter.say(sentence);
      reporter.stop();
      for (const sentence of settings.json ? [] : sentences) terminal.writeOut(`${sentence}\n`);
    };
    if (settings.dryRun) {
      const plan = await planRuns(runs, faults, view, context);
      print([...faults.map((fault) => fault.message), ...plan.runs.map(describePlan)]);
      return { ...plan, ...ignoredOf(ignored) };
    }
    const results = await pushRuns(runs, view, context);
    const details = results.map(({ outcome }) => outcome.error?.detail).join('\n');
    for (const line of context.faults.uncounted(details)) reporter.say(line);
    for (const line of results.flatMap((one) => one.badLines.sentences)) reporter.say(line);
    const result = resultOfRuns(results, faults);
    print([
      ...faults.map((fault) => fault.message),
      ...results.map(describeOutcome),
      ...describeRuns(result.runs, result.exitCode),
    ]);
    return { ...result, ...ignoredOf(ignored) };
  } finally {
    reporter.stop();
  }
}

export function newPushView(runs: SourceRun[]): PushView {
  const views = runs.map((run) => newRunView(`${run.model}/${run.run}`, run.files.length));
  return { startedAtMs: performance.now(), runs: views };
}

/** Pushes all runs; one run's fault does not stop the others. Results in the order of `runs`. */
export function pushRuns(runs: SourceRun[], view: PushView, context: PushContext): Promise<RunResult[]> {
  return Promise.all(
    runs.map(async (run, index) => {
      const runView = view.runs[index] ?? newRunView(run.run, run.files.length);
      const seconds = () => Math.round(performance.now() - view.startedAtMs) / 1000;
      try {
        if (run.fault) throw run.fault;
        const waiting = {
          signal: context.limit.signal,
          say: (sentence: string) => context.say(`${runView.label}: ${sentence}`),
        };
        const push = () => pushRun(run, runView, context);
        return settled(
          await withRunLock(context.stateDir, run.folder, waiting, push),
          runView,
          seconds(),
          context,
        );
      } catch (error) {
        return faulted(run, runView, seconds(), error, context);
      } finally {
        runView.stage = 'done';
      }
    }),
  );
}

function settled(run: Run, view: RunView, seconds: number, { service, settings }: PushContext): RunResult {
  const { result, exitCode, error } = settlementOf(run, settings.requireShown);
  return {
    outcome: {
      model: run.model,
      run: run.run,
      revision: run.revision,
      state: run.state,
      shown: run.shown,
      result,
      notShown: describeShown(run),
      rows: run.rows ?? null,
      page: pageUrl(service, run.model, run.run),
      bytesSent: view.sentBytes,
      bytesOnWire: view.wireBytes,
      bytesTotal: view.totalBytes,
      seconds,
      error,
    },
    exitCode,
    badLines: {
      sentences: describeBadLines(run, rejectsUrl(service, run.model, run.run)),
      count: run.rejects?.total ?? 0,
    },
  };
}

function faulted(
  run: SourceRun,
  view: RunView,
  seconds: number,
  fault: unknown,
  { service }: PushContext,
): RunResult {
  const { error, exitCode } = errorOf(fault);
  return {
    outcome: {
      model: run.model,
      run: run.run,
      revision: view.revision,
      state: view.serviceState,
      shown: null,
      result: WORD_OF[exitCode],
      notShown: null,
      rows: null,
      page: view.revision === null ? null : pageUrl(service, run.model, run.run),
      bytesSent: view.sentBytes,
      bytesOnWire: view.wireBytes,
      bytesTotal: view.totalBytes,
      seconds,
      error,
    },
    exitCode,
    badLines: { sentences: [], count: 0 },
  };
}

const FIRST_POLL_MS = 250;
/** The pause grows with the time that has passed: the end of a run that took 10 s is noticed within 1.5 s. */
const POLLED_SHARE = 0.15;
/** The code for bytes that do not match the manifest: the service drops them and accepts them again. */
const CONTENT_MISMATCH = 'content_mismatch';

/**
 * Makes the run in the service equal to the folder. Returns it when it has ended (with --no-wait: when it is
 * received). Each step follows from the last answer of the service, never from what this process has done:
 * another host may have sent half of the run, and a transfer that looked complete may not be.
 */
async function pushRun(run: SourceRun, view: RunView, context: PushContext): Promise<Run> {
  const { settings, limit } = context;
  const cache = await openHashCache(context.stateDir, run.folder, context.say);
  const files = await context.hashSlots(() => {
    view.stage = 'hashing';
    return hashRun(run, cache, limit.signal, view);
  });
  const retries = context.retries(view.label, limit);
  const declare = () => {
    const manifest = manifestOf(files, context);
    return declareRun(context.service, run.model, run.run, manifest, context.declareSlots, retries);
  };

  view.stage = 'declaring';
  let remote = await declare();
  let { revision } = remote;
  show(remote, view);
  context.say(describeDeclared(remote, files, view));
  let declaredAgain = false;
  const waitingSinceMs = performance.now();
  for (let round = 0; ; round++) {
    if (remote.error?.code === CONTENT_MISMATCH) {
      // Either the declaration or what arrived may be wrong: the next push hashes and sends both again.
      await cache.forget();
      throw new UploaderError('try_again', `${remote.error.detail} Run the same command again.`);
    }
    if (EXIT_CODE_OF_STATE[remote.state] !== null) return remote;
    const isMissing = remote.state === 'receiving' && remote.missing.files.length > 0;
    if (!settings.wait && (remote.state !== 'receiving' || allReceived(remote))) return remote;
    if (!isMissing || round > 0) {
      const waitedMs = performance.now() - waitingSinceMs;
      await pause(Math.min(Math.max(FIRST_POLL_MS, waitedMs * POLLED_SHARE), settings.pollMs), limit.signal);
    }
    if (isMissing) {
      try {
        view.stage = 'sending';
        await sendMissingFiles(remote, run, files, view, context);
      } catch (error) {
        if (judge(error, 'upload', true)?.do !== 'declare_again') throw error;
        // Of the same content: a declaration would undo a withdrawal, or cancel what another push has declared.
        const now = await findRun(context.service, run.model, run.run, retries);
        // A lower revision, or none: the database was restored from a backup.
        if (now !== null && now.revision > revision) throw replaced(view.label, revision, now);
        if (now?.revision === revision && now.state !== 'receiving') {
          remote = now;
          show(remote, view);
          if (now.state !== 'cancelled') continue;
          const cancellation = await readCancellation(context.service, now, retries);
          if (cancellation !== 'expired') return withdrawn(now, cancellation.withdrawn);
        }
        if (declaredAgain) throw vanished(error);
        declaredAgain = true;
        remote = await declare();
        revision = remote.revision;
        show(remote, view);
        continue;
      }
    }
    const before = remote;
    const next = await findRun(context.service, run.model, run.run, retries);
    if (next === null) throw forgotten(view.label, revision);
    remote = next;
    if (remote.revision !== revision) throw replaced(view.label, revision, remote);
    show(remote, view);
    for (const sentence of describeChange(before, remote, view)) context.say(sentence);
  }
}

function manifestOf(files: HashedFile[], context: PushContext): Manifest {
  const { asOf } = context.settings;
  return {
    files: files.map(({ name, sha256, lines, identity }) => ({ name, bytes: identity.bytes, sha256, lines })),
    ...(asOf ? { as_of: asOf } : {}),
    source: context.source,
  };
}

const allReceived = ({ files }: Run): boolean => files.received === files.total;

function show(remote: Run, view: RunView): void {
  view.revision = remote.revision;
  view.serviceState = remote.state;
  view.load = remote.load;
  view.progress = remote.progress;
  view.filesReceived = remote.files.received;
  view.receivedBytes = remote.bytes.received;
  view.stage = 'in_service';
}

function vanished(fault: unknown): UploaderError {
  return new UploaderError(
    'try_again',
    `${fault instanceof Error ? fault.message : fault}, although the run was declared again. Run the same command again.`,
    { cause: fault },
  );
}

/** The token covered it when it was declared: the database was restored from a backup, or its history was deleted. */
function forgotten(label: string, revision: number): UploaderError {
  return new UploaderError(
    'try_again',
    `${label}: the service does not know revision ${revision} any more. Run the same command again.`,
  );
}

function withdrawn(run: Run, what: string): Run {
  const detail = `${what} Find out why; to push it anyway, run the same command again.`;
  return { ...run, error: { code: run.state, detail } };
}

function replaced(label: string, revision: number, now: Run): UploaderError {
  const by = now.pushedBy ? ` by ${now.pushedBy}` : '';
  return new UploaderError(
    'data',
    `${label}: revision ${revision} was replaced: revision ${now.revision} has been pushed${by} meanwhile (${now.state}). Find out which one is right before you push again.`,
  );
}
