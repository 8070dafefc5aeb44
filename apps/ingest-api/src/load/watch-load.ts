import { destroyConnection, type KeyBuild, type LoadPhase } from 'db-schema';
import type pg from 'pg';
import { describeError } from '../errors.ts';
import { type BackendActivity, backendActivity, waitsForUs } from './backend-activity.ts';
import { followKeyBuild } from './follow-key-build.ts';
import { type LoadProgress, reportProgress } from './load-attempts.ts';
import type { LoaderContext } from './loader-context.ts';

const TICK_MS = 500;
/** A backend that works shows no sign of it while it sorts in memory: it gets this many times the patience. */
const PATIENCE_WITH_WORK = 10;

export interface LoadWatch {
  /** Why the watch has cut the connection, if it has. */
  readonly fault: string | undefined;
  /** Rejects when the watch cuts the connection: what waits for a disk does not hear of that by itself. */
  readonly cut: Promise<never>;
  /** Ends the watch at once, also while a report waits for a row that the load itself holds. */
  stop(): void;
  /** Resolves when the last report is over: to be awaited after the load's transaction has ended. */
  reported(): Promise<void>;
}

/**
 * Tells how far a load is, and ends one that does not move: a COPY that takes no byte, a backend that waits for
 * the same lock or disk all the time (`stallTimeoutMs`), a file that cannot be read. Its connection is cut,
 * which rolls it back, and it is tried again.
 */
export function watchLoad(
  client: pg.Client,
  backendPid: number,
  attemptId: number,
  progress: LoadProgress,
  context: LoaderContext,
): LoadWatch {
  let fault: string | undefined;
  let isStopped = false;
  let seen: string | undefined;
  let movedAtMs = performance.now();
  let answeredAtMs = movedAtMs;
  let tickedAtMs = movedAtMs;
  let working: Promise<void> | undefined;
  let keyBuild: KeyBuild | undefined;

  const tick = async () => {
    const activity = await backendActivity(context.sidePool, backendPid);
    keyBuild = followKeyBuild(keyBuild, activity?.index, progress.phaseSeconds.building_key ?? 0);
    await reportProgress(context.side, attemptId, progress, keyBuild);
    answeredAtMs = performance.now();
    if (isStopped) return;
    const now = signOfLife(progress, activity);
    if (now !== seen) movedAtMs = performance.now();
    seen = now;
    const patience = progress.phase !== 'copying' && activity?.isWorking === true ? PATIENCE_WITH_WORK : 1;
    const stillMs = performance.now() - movedAtMs;
    if (stillMs > context.stallTimeoutMs * patience) cut(stallOf(progress.phase, stillMs, activity));
  };
  const { promise: wasCut, reject } = Promise.withResolvers<never>();
  wasCut.catch(() => {}); // heard by whoever waits for the load
  const cut = (reason: string) => {
    if (fault !== undefined || isStopped) return;
    fault = reason;
    destroyConnection(client, reason);
    reject(new Error(reason));
  };
  const timer = setInterval(() => {
    const nowMs = performance.now();
    // This process was stopped itself: it says nothing about the others. When they have ended the load, that is heard.
    if (nowMs - tickedAtMs > TICK_MS + context.stallTimeoutMs / 2) movedAtMs = answeredAtMs = nowMs;
    tickedAtMs = nowMs;
    const unansweredMs = performance.now() - answeredAtMs;
    if (unansweredMs > context.stallTimeoutMs) {
      const seconds = Math.round(unansweredMs / 1000);
      cut(
        `PostgreSQL did not answer on a second connection for ${seconds} s while the load was ${progress.phase}.`,
      );
    }
    working ??= tick()
      .catch((error: unknown) =>
        context.log.warn({ err: describeError(error) }, 'progress could not be reported'),
      )
      .finally(() => {
        working = undefined;
      });
  }, TICK_MS);
  return {
    get fault() {
      return fault;
    },
    cut: wasCut,
    stop() {
      isStopped = true;
      clearInterval(timer);
    },
    async reported() {
      await working;
    },
  };
}

/** A text that stays the same while nothing moves. */
function signOfLife(progress: LoadProgress, activity: BackendActivity | undefined): string {
  // While rows are sent, only they count: the states of the backend change with each packet.
  const backend = progress.phase === 'copying' ? '' : (activity?.sign ?? '');
  return `${progress.phase} ${progress.bytesDone} ${backend}`;
}

const DOES: Record<LoadPhase, string> = {
  copying: 'The COPY stalled',
  building_key: 'The build of the key stalled',
  attaching: 'Attaching the partition stalled',
  publishing: 'The publication stalled',
};

function stallOf(phase: LoadPhase, stillMs: number, activity: BackendActivity | undefined): string {
  const seconds = Math.round(stillMs / 1000);
  const what = `${DOES[phase] ?? 'The load stalled'}: nothing moved for ${seconds} s`;
  if (activity === undefined) return `${what}, and its backend has gone.`;
  if (phase === 'copying' && waitsForUs(activity))
    return `${what}; PostgreSQL waits for rows, and the loader for the disk with the uploads.`;
  return `${what}; PostgreSQL ${activity.waitsFor === undefined ? 'is at work' : `waits for ${activity.waitsFor}`}.`;
}
