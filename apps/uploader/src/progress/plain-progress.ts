import { describeRun } from './describe-run.ts';
import type { PushView } from './push-view.ts';
import { createRate } from './rate.ts';
import type { Reporter } from './reporter.ts';

/** More runs than this are summed up: a log wants to be read. */
const MOST_LINES = 20;

/**
 * Whole lines for logs: each change as it happens, and what is going on every 30 s. No carriage returns,
 * which a scheduler would show as one endless line.
 */
export function plainProgress(write: (text: string) => void, view: PushView, everyMs = 30_000): Reporter {
  const rates = new Map(view.runs.map((run) => [run, createRate(60_000)]));
  const timer = setInterval(() => {
    const going = view.runs.filter((run) => run.stage !== 'done' && run.stage !== 'waiting');
    for (const run of going.slice(0, MOST_LINES)) {
      const rate = rates.get(run)?.(run.sentBytes, performance.now()) ?? 0;
      write(`${run.label}: ${describeRun(run, rate)}\n`);
    }
    if (going.length > MOST_LINES) write(`… and ${going.length - MOST_LINES} more runs\n`);
  }, everyMs);
  // The first sample, so that the first line has a rate.
  for (const run of view.runs) rates.get(run)?.(run.sentBytes, performance.now());
  return {
    say: (sentence) => write(`${sentence}\n`),
    stop: () => clearInterval(timer),
  };
}
