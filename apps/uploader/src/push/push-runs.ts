import { WORD_OF } from '../command-result.ts';
import { newRunView, type PushView, type RunView } from '../progress/push-view.ts';
import type { Run } from '../service/run-schema.ts';
import { rejectsUrl } from '../service/service-client.ts';
import type { SourceRun } from '../source/find-runs.ts';
import { withRunLock } from '../state/run-lock.ts';
import { describeBadLines, describeShown, errorOf, type RunResult, settlementOf } from './outcome.ts';
import type { PushContext } from './push-context.ts';
import { pushRun } from './push-run.ts';

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
        return faulted(run, runView, seconds(), error);
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
      bytesSent: view.sentBytes,
      bytesTotal: view.totalBytes,
      seconds,
      error,
    },
    exitCode,
    badLines: describeBadLines(run, rejectsUrl(service, run.model, run.run)),
  };
}

function faulted(run: SourceRun, view: RunView, seconds: number, fault: unknown): RunResult {
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
      bytesSent: view.sentBytes,
      bytesTotal: view.totalBytes,
      seconds,
      error,
    },
    exitCode,
    badLines: [],
  };
}
