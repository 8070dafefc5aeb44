import type { WriteStream } from 'node:tty';
import { createRate, describeRun, type PushView } from './view.ts';

/** Shows progress: `say` prints a sentence about an event; the rest is read from the view over time. */
export type Reporter = {
  say: (sentence: string) => void;
  /** Clears the block; nothing is shown after it. */
  stop: () => void;
};

/** The environment and the output streams of the process; main.ts makes it. */
export type Terminal = {
  env: NodeJS.ProcessEnv;
  writeOut: (text: string) => void;
  writeError: (text: string) => void;
  /** stderr, if it is a terminal. */
  errorTty: WriteStream | null;
};

export async function startReporter(terminal: Terminal, view: PushView): Promise<Reporter> {
  if (!terminal.errorTty) return plainProgress(terminal.writeError, view);
  // log-update is loaded for a terminal only: every other start is faster without it.
  const { liveProgress } = await import('./live.ts');
  return liveProgress(terminal.errorTty, view);
}

/** More runs than this are summed up, so that the log stays readable. */
const MOST_LINES = 20;

/**
 * For logs: a whole line for each change, and the state every 30 s. No carriage returns: a scheduler would
 * show them as one endless line.
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
