import type { WriteStream } from 'node:tty';
import { createLogUpdate } from 'log-update';
import { printableLines } from 'wire';
import {
  bytesThere,
  createRate,
  describeRun,
  type FileView,
  formatBytes,
  formatDuration,
  formatPercent,
  loadShare,
  type PushView,
  type RunView,
} from './view.ts';

/** Where progress goes. `say` is for what happened, in sentences; the rest is read from the view over time. */
export type Reporter = {
  say: (sentence: string) => void;
  /** Leaves the terminal clean; nothing is shown after it. */
  stop: () => void;
};

/** The process's surroundings, handed in by main.ts. */
export type Terminal = {
  env: NodeJS.ProcessEnv;
  writeOut: (text: string) => void;
  writeError: (text: string) => void;
  /** stderr, when a person is looking at it. */
  errorTty: WriteStream | null;
};

export async function startReporter(terminal: Terminal, view: PushView): Promise<Reporter> {
  if (!terminal.errorTty) return plainProgress(terminal.writeError, view);
  // Loaded only where there is a terminal: a scheduler's run need not wait for it.
  const { liveProgress } = await import('./reporter.ts');
  return liveProgress(terminal.errorTty, view);
}

const REDRAW_MS = 125;
const MOST_SAID_AGAIN = 200;
/** Cursor to the upper left, and all below it away (ECMA-48 CUP, ED). */
const CLEAR_SCREEN = '\u001B[H\u001B[J';

/** The same for a person at a terminal: a block that is redrawn, and sentences that stay above it. */
export function liveProgress(stream: WriteStream, view: PushView): Reporter {
  const block = createLogUpdate(stream);
  // A file's rate goes with the file: a run may have thousands.
  const rates = new WeakMap<RunView | FileView | PushView, ReturnType<typeof createRate>>();
  const rateOf = (of: RunView | FileView | PushView, totalBytes: number): number => {
    const rate = rates.get(of) ?? createRate();
    rates.set(of, rate);
    return rate(totalBytes, performance.now());
  };
  const draw = () => {
    const text = renderBlock(
      view,
      {
        ofRun: (run) => rateOf(run, run.sentBytes),
        ofFile: (file) => rateOf(file, file.sentBytes),
        total: rateOf(
          view,
          view.runs.reduce((sum, run) => sum + run.sentBytes, 0),
        ),
      },
      stream.columns || 80,
      stream.rows || 24,
    );
    block(printableLines(text));
  };
  const said: string[] = [];
  // Terminals differ in what they make of lines that no longer fit; only what is drawn anew is sure to be right.
  const startOver = () => {
    block.clear();
    stream.write(CLEAR_SCREEN);
    for (const sentence of said.slice(-(stream.rows || 24))) stream.write(`${sentence}\n`);
    draw();
  };
  const timer = setInterval(draw, REDRAW_MS);
  stream.on('resize', startOver);
  return {
    say: (given) => {
      const sentence = printableLines(given);
      said.push(sentence);
      if (said.length > MOST_SAID_AGAIN) said.shift();
      block.persist(sentence);
    },
    stop: () => {
      clearInterval(timer);
      stream.off('resize', startOver);
      block.clear();
      block.done();
    },
  };
}

export type Rates = {
  ofRun: (run: RunView) => number;
  ofFile: (file: FileView) => number;
  total: number;
};

const BAR_CELLS = 20;
const NAME_CELLS = 28;

/** The live block of a terminal: a line a run, its active files below it, and the total when there are several runs. */
export function renderBlock(view: PushView, rates: Rates, columns: number, rows: number): string {
  const lines: string[] = [];
  for (const run of view.runs) {
    if (run.stage === 'waiting' || run.stage === 'done') continue;
    lines.push(`${run.label}  ${describeRun(run, rates.ofRun(run))}`);
    if (run.stage === 'in_service' && run.load?.phase) lines.push(loadLine(run, run.load, run.load.phase));
    if (run.stage !== 'sending') continue;
    for (const file of run.active.values()) {
      const rate = rates.ofFile(file);
      const left = rate > 0 ? ((file.totalBytes - file.sentBytes) / rate) * 1000 : null;
      const eta = left === null ? '' : `  ${formatDuration(left)} left`;
      lines.push(
        `  ${fit(file.name)} ${bar(file.sentBytes, file.totalBytes)} ${formatPercent(file.sentBytes, file.totalBytes)}  ${formatBytes(rate)}/s${eta}`,
      );
    }
  }
  const room = Math.max(3, rows - 2);
  const shown =
    lines.length > room ? [...lines.slice(0, room - 1), `… ${lines.length - room + 1} more lines`] : lines;
  if (view.runs.length > 1) shown.push(totalLine(view, rates.total));
  return shown.map((line) => (line.length >= columns ? `${line.slice(0, columns - 2)}…` : line)).join('\n');
}

/** In the form of a file's line: the same bytes go on. */
function loadLine(run: RunView, load: NonNullable<RunView['load']>, phase: string): string {
  const name = fit(`load: ${phase.replaceAll('_', ' ')}`);
  const share = loadShare(load, run.totalBytes);
  const done = share
    ? `${bar(share.done, share.total)} ${formatPercent(share.done, share.total)}`
    : bar(0, 1);
  const rate = phase === 'copying' ? run.progress?.bytesPerSecond : null;
  const left = run.progress?.etaSeconds;
  const pace = rate ? `  ${formatBytes(rate)}/s` : '';
  const eta = typeof left === 'number' ? `  ${formatDuration(left * 1000)} left` : '';
  return `  ${name} ${done}${pace}${eta}`;
}

function totalLine(view: PushView, bytesPerSecond: number): string {
  const total = view.runs.reduce((sum, run) => sum + run.totalBytes, 0);
  const there = view.runs.reduce((sum, run) => sum + bytesThere(run), 0);
  const done = view.runs.filter((run) => run.stage === 'done').length;
  const left =
    bytesPerSecond > 0 ? `, ${formatDuration(((total - there) / bytesPerSecond) * 1000)} left` : '';
  return `total  ${bar(there, total)} ${formatBytes(there)} of ${formatBytes(total)}, ${formatBytes(bytesPerSecond)}/s${left}, ${done} of ${view.runs.length} runs done`;
}

function bar(part: number, whole: number): string {
  const filled = whole === 0 ? BAR_CELLS : Math.round((Math.min(part, whole) / whole) * BAR_CELLS);
  return '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
}

function fit(name: string): string {
  return name.length > NAME_CELLS ? `…${name.slice(1 - NAME_CELLS)}` : name.padEnd(NAME_CELLS);
}

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
