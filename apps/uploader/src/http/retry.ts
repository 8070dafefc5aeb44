import { OutOfTime, UploaderError } from '../results/result.ts';
import { pause, type TimeLimit } from './exchange.ts';
import { type Asked, givenUp, judge } from './faults.ts';

export type RetryOptions = {
  asked: Asked;
  limit: TimeLimit;
  /** Called before each pause, for progress. */
  onPause: (fault: Error, pauseMs: number) => void;
  /** True when the failed try made progress; then the backoff starts from its beginning. */
  madeProgress?: () => boolean;
  random?: () => number;
};

/**
 * Tries until it succeeds, the fault is permanent, or the time is over (an UploaderError then says so).
 * A fault that this module does not know, and 'declare_again', are thrown as they are.
 */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  let failures = 0;
  for (;;) {
    let fault: Error;
    let retryAfterMs: number | null;
    try {
      return await attempt();
    } catch (error) {
      const verdict = judge(error, options.asked);
      if (!verdict || verdict.do === 'declare_again' || !(error instanceof Error)) throw error;
      if (verdict.do === 'give_up') throw givenUp(error, verdict);
      fault = error;
      retryAfterMs = verdict.retryAfterMs;
    }
    failures = options.madeProgress?.() ? 1 : failures + 1;
    const pauseMs = backoffMs(failures, retryAfterMs, options.random ?? Math.random);
    if (pauseMs >= options.limit.remainingMs()) throw outOfTime(fault);
    options.onPause(fault, pauseMs);
    try {
      await pause(pauseMs, options.limit.signal);
    } catch (error) {
      throw error instanceof OutOfTime ? outOfTime(fault) : error;
    }
  }
}

function outOfTime(lastFault: Error): UploaderError {
  return new UploaderError(
    'try_again',
    `Out of time (--max-duration). The last fault was: ${lastFault.message}. Run the same command again: it continues from here.`,
    { cause: lastFault },
  );
}

const FIRST_MS = 500;
const LONGEST_MS = 30_000;

/**
 * Exponential backoff with full jitter: a random time between zero and a limit that doubles, so that clients
 * which failed together do not retry together. Never shorter than Retry-After: the service would reject the
 * request again.
 */
export function backoffMs(failuresInARow: number, retryAfterMs: number | null, random: () => number): number {
  const limitMs = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failuresInARow - 1, 20));
  const jitterMs = random() * limitMs;
  return retryAfterMs === null ? jitterMs : retryAfterMs + Math.min(jitterMs, 1000);
}
