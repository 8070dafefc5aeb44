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
  type Reporter,
  type RunView,
} from './view.ts';

const REDRAW_MS = 125;
const MOST_REPEATED = 200;
/** Moves the cursor to the upper left and erases everything below (ECMA-48 CUP, ED). */
const CLEAR_SCREEN = '\u001B[H\u001B[J';

/** For a terminal: a block that is redrawn, and sentences that stay above it. */
export function liveProgress(stream: WriteStream, view: PushView): Reporter {
  const block = createLogUpdate(stream);
  // Weak, so that the rate of a file is freed with the file: a run may have thousands.
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
  // Terminals differ in how they show lines that no longer fit; only a fresh drawing is certain to be right.
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
      if (said.length > MOST_REPEATED) said.shift();
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

/** One line for each run, below it its files in transfer, and a total if there are several runs. */
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

/** The load of a run, in the form of the line of a file. */
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
