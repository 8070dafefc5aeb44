import { setTimeout as sleep } from 'node:timers/promises';
import { OutOfTime } from '../uploader-error.ts';

/** How long the whole command may still take, and the signal that ends everything when that is over. */
export type TimeLimit = { signal: AbortSignal; remainingMs: () => number };

export function startTimeLimit(maxDurationMs: number, interrupt: AbortSignal): TimeLimit {
  const endsAtMs = performance.now() + maxDurationMs;
  const ended = new AbortController();
  setTimeout(() => {
    ended.abort(
      new OutOfTime('Out of time (--max-duration). Run the same command again: it goes on from here.'),
    );
  }, maxDurationMs).unref();
  return {
    signal: AbortSignal.any([interrupt, ended.signal]),
    remainingMs: () => endsAtMs - performance.now(),
  };
}

/** Rejects with the signal's own reason, which says why, and not with a mere AbortError. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
