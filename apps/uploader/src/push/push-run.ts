import { pause } from '../net/time-limit.ts';
import { judge } from '../net/verdict.ts';
import type { RunView } from '../progress/push-view.ts';
import type { Run } from '../service/run-schema.ts';
import { declareRun, getRun } from '../service/service-client.ts';
import type { SourceRun } from '../source/find-runs.ts';
import { openHashCache } from '../source/hash-cache.ts';
import { hashRun } from '../source/hash-run.ts';
import { UploaderError } from '../uploader-error.ts';
import { describeChange, describeDeclared } from './describe-change.ts';
import { manifestOf } from './manifest-of.ts';
import { EXIT_CODE_OF_STATE } from './outcome.ts';
import type { PushContext } from './push-context.ts';
import { sendMissingFiles } from './send-missing-files.ts';

const FIRST_POLL_MS = 250;
/** The pause grows with the time that has passed: the end of what took 10 s is noticed within 1.5 s. */
const POLLED_SHARE = 0.15;
/** The service's word for bytes that are not those of the manifest: it forgets them, and takes them again. */
const CONTENT_MISMATCH = 'content_mismatch';

/**
 * Makes the service's run equal to the folder and returns it settled (or, without waiting, received). What
 * to do next is read from the service's answer each time round, never from what this process has done:
 * another host may have sent half of it, and a transfer that looked finished may not have been.
 */
export async function pushRun(run: SourceRun, view: RunView, context: PushContext): Promise<Run> {
  const { settings, limit } = context;
  const cache = await openHashCache(context.stateDir, run.folder, context.say);
  const files = await context.hashSlots(() => {
    view.stage = 'hashing';
    return hashRun(run, cache, limit.signal, view);
  });
  const retries = {
    signal: limit.signal,
    limit,
    onPause: (fault: Error, pauseMs: number) => context.sayPause(view.label, fault, pauseMs),
  };
  const declare = () =>
    context.declareSlots(() =>
      declareRun(context.service, run.model, run.run, manifestOf(files, context), retries),
    );

  view.stage = 'declaring';
  let remote = await declare();
  let { revision } = remote;
  show(remote, view);
  context.say(describeDeclared(remote, files, view));
  let declaredAgain = false;
  const waitingSinceMs = performance.now();
  for (let round = 0; ; round++) {
    if (remote.error?.code === CONTENT_MISMATCH) {
      // Of what was declared and what arrived either may be wrong: next time both are made anew.
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
        await sendMissingFiles(remote, files, view, context);
      } catch (error) {
        if (judge(error, 'upload')?.do !== 'declare_again') throw error;
        if (declaredAgain) throw vanished(error);
        declaredAgain = true;
        remote = await declare();
        revision = remote.revision;
        show(remote, view);
        continue;
      }
    }
    const before = remote;
    remote = await getRun(context.service, run.model, run.run, { ...retries, asked: 'known_run' });
    if (remote.revision !== revision) throw replaced(view.label, revision, remote);
    show(remote, view);
    for (const sentence of describeChange(before, remote, view)) context.say(sentence);
  }
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

function replaced(label: string, revision: number, now: Run): UploaderError {
  const by = now.pushedBy ? ` by ${now.pushedBy}` : '';
  return new UploaderError(
    'data',
    `${label}: revision ${revision} was replaced: revision ${now.revision} has been pushed${by} meanwhile (${now.state}). Find out which one is right before you push again.`,
  );
}
