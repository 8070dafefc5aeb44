import { NetworkFault } from './exchange.ts';
import { HttpFault } from './http-fault.ts';

export type FaultLog = {
  /** The service itself has answered a request of this method. */
  answered: (method: string) => void;
  /** How many requests of this method, or of all, it has answered. While there are none, its address may be wrong. */
  answers: (method?: string) => number;
  /** `untilMs`: when the retries end; null: they have ended, and the result says the fault. */
  happened: (what: string, fault: Error, untilMs: number | null) => void;
  /** A request that failed before has succeeded. */
  ended: (what: string) => void;
  /** At the end: the faults that happened again after they were said or counted, but for those that `results` name. */
  uncounted: (results: string) => string[];
};

const COUNTED_EVERY_MS = 5 * 60_000;

/**
 * Says each fault once, with the time until which it is retried, then counts it: every five minutes, and when it is
 * over. All transfers of a push share one log, because they meet the same faults.
 */
export function createFaultLog(say: (sentence: string) => void): FaultLog {
  const known = new Map<string, KnownFault>();
  const answers = new Map<string, number>();
  let allAnswers = 0;
  return {
    answered: (method) => {
      answers.set(method, (answers.get(method) ?? 0) + 1);
      allAnswers += 1;
    },
    answers: (method) => (method === undefined ? allAnswers : (answers.get(method) ?? 0)),
    happened: (what, fault, untilMs) => {
      const { fact, host, request } = describeFault(fault);
      const nowMs = Date.now();
      const one = known.get(fact) ?? {
        what,
        host,
        count: 0,
        counted: 0,
        sinceMs: nowMs,
        saidMs: 0,
        isOpen: false,
      };
      known.set(fact, one);
      one.count++;
      if (untilMs === null || nowMs - one.saidMs < COUNTED_EVERY_MS) return;
      const times = one.count === 1 ? '' : ` (${one.count} times since ${timeOfDay(one.sinceMs, nowMs)})`;
      say(`${what}: ${fact}${request}${times}; retrying until ${timeOfDay(untilMs, nowMs)}`);
      one.saidMs = nowMs;
      one.counted = one.count;
      one.isOpen = true;
    },
    ended: (what) => {
      const open = [...known.values()].filter(({ isOpen }) => isOpen);
      for (const [host, faults] of Map.groupBy(open, (one) => one.host)) {
        const count = faults.reduce((sum, one) => sum + one.count, 0);
        say(`${what}: ${host} answers again, after ${count} failed ${count === 1 ? 'try' : 'tries'}`);
      }
      for (const one of open) Object.assign(one, { isOpen: false, counted: one.count });
    },
    uncounted: (results) =>
      [...known]
        .filter(([fact, { count, counted, host }]) => {
          const named = fact.startsWith(`${host} `) ? fact.slice(host.length + 1) : fact; // a result has the address instead
          return count > Math.max(counted, 1) && !results.includes(named);
        })
        .map(([fact, { what, count }]) => `${what}: ${fact}: ${count} times in all`),
  };
}

type KnownFault = {
  /** Whom it concerned first. */
  what: string;
  host: string;
  count: number;
  /** Of these, in a sentence so far. */
  counted: number;
  sinceMs: number;
  saidMs: number;
  /** Said, and no request has succeeded since. */
  isOpen: boolean;
};

function describeFault(fault: Error): { fact: string; host: string; request: string } {
  if (fault instanceof HttpFault) {
    const id = fault.problem?.request_id;
    return { fact: fault.fact, host: fault.host, request: id === undefined ? '' : ` (request ${id})` };
  }
  return { fact: fault.message, host: fault instanceof NetworkFault ? fault.host : '', request: '' };
}

/** In UTC, as schedulers log; with the date when it is another day, with seconds when it is soon. */
function timeOfDay(atMs: number, nowMs: number): string {
  const text = new Date(Math.min(atMs, 8.64e15)).toISOString();
  const day = text.slice(0, 10) === new Date(nowMs).toISOString().slice(0, 10) ? '' : `${text.slice(0, 10)} `;
  return `${day}${text.slice(11, Math.abs(atMs - nowMs) < 120_000 ? 19 : 16)} UTC`;
}
