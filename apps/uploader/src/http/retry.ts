import { OutOfTime, UploaderError } from '../errors.ts';
import { CONTINUES, pause, type TimeLimit } from './exchange.ts';
import type { FaultLog } from './fault-log.ts';
import { HttpFault } from './http-fault.ts';
import { type Asked, givenUp, judge } from './verdict.ts';

export type RetryOptions = {
  asked: Asked;
  limit: TimeLimit;
  faults: FaultLog;
  /** Whom the fault concerns, for the log. */
  what: string;
  /** True when the failed try made progress; then the backoff starts from its beginning. */
  madeProgress?: () => boolean;
  random?: () => number;
  /** In ms. */
  now?: () => number;
};

/**
 * Tries until it succeeds, the fault is permanent, or the time is over (an UploaderError then says so).
 * A fault that this module does not know, and 'declare_again', are thrown as they are.
 */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  let failures = 0;
  const { faults } = options;
  const refusals = countRefusals(faults, options.now ?? Date.now);
  for (;;) {
    let fault: Error;
    let retryAfterMs: number | null;
    let madeProgress: boolean;
    try {
      const result = await attempt();
      if (failures > 0) faults.ended(options.what);
      return result;
    } catch (error) {
      if (error instanceof HttpFault && !error.isForeign) faults.answered(error.method);
      const verdict = judge(error, options.asked, faults.answers() > 0);
      if (!verdict || verdict.do === 'declare_again' || !(error instanceof Error)) throw error;
      if (verdict.do === 'give_up') throw givenUp(error, verdict);
      madeProgress = options.madeProgress?.() ?? false;
      // A proxy that answers before it has read the body, and closes, is met as either.
      const advice = error instanceof HttpFault ? refusals.add(error, madeProgress) : null;
      if (advice !== null) {
        faults.happened(options.what, error, null);
        throw givenUp(error, { do: 'give_up', kind: 'usage', advice });
      }
      fault = error;
      retryAfterMs = verdict.retryAfterMs;
    }
    failures = madeProgress ? 1 : failures + 1;
    const pauseMs = backoffMs(failures, retryAfterMs, options.random ?? Math.random);
    const leftMs = options.limit.remainingMs();
    faults.happened(options.what, fault, pauseMs < leftMs ? Date.now() + leftMs : null);
    if (pauseMs >= leftMs) throw outOfTime(options.limit, fault, failures);
    try {
      await pause(pauseMs, options.limit.signal);
    } catch (error) {
      throw error instanceof OutOfTime ? outOfTime(options.limit, fault, failures) : error;
    }
  }
}

function outOfTime({ over }: TimeLimit, lastFault: Error, tries: number): UploaderError {
  const sender =
    lastFault instanceof HttpFault && lastFault.isForeign && lastFault.status >= 300
      ? ' The service itself did not send this answer: a proxy did, or another server at its address.'
      : '';
  return new UploaderError(
    'try_again',
    `${over} The last fault was, in ${tries} ${tries === 1 ? 'try' : 'tries'}: ${lastFault.message}.${sender} ${CONTINUES}`,
    { cause: lastFault },
  );
}

/** What proxies and firewalls answer to a method that they do not pass, whatever it asks for. */
const REFUSES_METHOD = [405, 501];
/** So do these, but they may also mean the address. */
const MAY_REFUSE_METHOD = [400, 401, 403, 404];
/** Tries of one request: a proxy that is being replaced may answer anything once. */
const MOST_REFUSALS = 5;
/** A page for the time in which the service is not there may be a 405 to PUT and PATCH. */
const REFUSED_FOR_MS = 60_000;
/** Of a method that passes otherwise: a firewall that is being replaced may refuse it at one of its hosts for minutes. */
const MOST_REFUSALS_OF_CONTENT = 20;
const CONTENT_REFUSED_FOR_MS = 10 * 60_000;

const methodRefused = (method: string) =>
  `The service itself has answered no ${method} of this command: a proxy in front of it refuses the method. Ask its operators to pass GET, HEAD, PUT, PATCH, POST and DELETE.`;
const contentRefused = (method: string) =>
  `The service itself answers other requests, and did not get this ${method} for ten minutes: a proxy or firewall in front of it refuses its content. Ask its operators to pass the bodies of requests unread.`;

/**
 * Counts the refusals of one request in a row. `add` returns the advice when they are no matter of time, else null:
 *
 * - of a method of which the service itself has answered no request, when it has answered requests of other methods before
 *   each of five, or they last for a minute;
 * - of a method that it answers, when it has answered other requests before each of twenty, and they last for ten minutes.
 */
function countRefusals(
  faults: FaultLog,
  now: () => number,
): { add: (fault: HttpFault, madeProgress: boolean) => string | null } {
  let inARow = 0;
  let whileItAnswers = 0;
  let sinceMs = 0;
  let answersBefore = 0;
  return {
    add: ({ isForeign, status, method, retryAfterMs }, madeProgress) => {
      const isThere = faults.answers() > answersBefore;
      answersBefore = faults.answers();
      const isRefusal =
        isForeign &&
        retryAfterMs === null &&
        (REFUSES_METHOD.includes(status) || (isThere && MAY_REFUSE_METHOD.includes(status)));
      if (inARow === 0 || madeProgress) {
        inARow = 0;
        whileItAnswers = 0;
        sinceMs = now();
      }
      inARow = isRefusal ? inARow + 1 : 0;
      whileItAnswers = isRefusal && isThere ? whileItAnswers + 1 : 0;
      const lastedMs = now() - sinceMs;
      if (faults.answers(method) > 0) {
        const isLasting = whileItAnswers >= MOST_REFUSALS_OF_CONTENT && lastedMs >= CONTENT_REFUSED_FOR_MS;
        return isLasting ? contentRefused(method) : null;
      }
      const isLasting =
        whileItAnswers >= MOST_REFUSALS || (inARow >= MOST_REFUSALS && lastedMs >= REFUSED_FOR_MS);
      return isLasting ? methodRefused(method) : null;
    },
  };
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
