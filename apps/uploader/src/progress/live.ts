import type { WriteStream } from 'node:tty';
import { createLogUpdate } from 'log-update';
import { printableLines } from 'wire';
import {
  bytesThere,
  createRate,
  describeStage,
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
    aside: (write) => {
      block.clear();
      write();
      draw();
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

/** A line of the block: the name, then what there is of bar, share, rate and time, then words if they fit. */
type Row = {
  name: string;
  /** null: nothing can be counted; then there are only name and words. */
  share: { done: number; total: number } | null;
  /** Its share is not known: the bar is empty, and has no percentage. */
  isVague?: boolean;
  bytesPerSecond: number | null;
  leftMs: number | null;
  words: string;
};

/** One line for each run, below it its files in transfer, and a total if there are several runs. */
export function renderBlock(view: PushView, rates: Rates, columns: number, rows: number): string {
  const lines: Row[] = [];
  for (const run of view.runs) {
    if (run.stage === 'waiting' || run.stage === 'done') continue;
    lines.push(runRow(run, rates.ofRun(run)));
    if (run.stage !== 'sending') continue;
    for (const file of run.active.values()) {
      const { name, sentBytes, totalBytes } = file;
      lines.push(sendingRow(`  ${name}`, sentBytes, totalBytes, rates.ofFile(file), ''));
    }
  }
  const room = Math.max(3, rows - 2);
  const isCut = lines.length > room;
  const shown = isCut ? lines.slice(0, room - 1) : lines;
  const total = view.runs.length > 1 ? [totalRow(view, rates.total)] : [];
  const texts = layOut([...shown, ...total], columns - 1);
  if (isCut) texts.splice(shown.length, 0, `… ${lines.length - shown.length} more lines`);
  return texts.join('\n');
}

function runRow(run: RunView, bytesPerSecond: number): Row {
  const words = describeStage(run);
  const name = run.label;
  if (run.stage === 'sending')
    return sendingRow(name, bytesThere(run), run.totalBytes, bytesPerSecond, words);
  if (run.stage === 'hashing' || run.stage === 'checking')
    return {
      name,
      share: { done: run.hashedBytes, total: run.totalBytes },
      bytesPerSecond: null,
      leftMs: null,
      words,
    };
  if (run.stage !== 'in_service' || !run.load?.phase)
    return { name, share: null, bytesPerSecond: null, leftMs: null, words };
  const share = loadShare(run.load, run.totalBytes);
  const seconds = run.progress?.loadEtaSeconds ?? run.progress?.etaSeconds;
  return {
    name,
    share: share ?? { done: 0, total: 1 },
    isVague: share === null,
    bytesPerSecond: run.load.phase === 'copying' ? (run.progress?.bytesPerSecond ?? null) : null,
    leftMs: typeof seconds === 'number' ? seconds * 1000 : null,
    words,
  };
}

function sendingRow(name: string, done: number, total: number, bytesPerSecond: number, words: string): Row {
  const leftMs = bytesPerSecond > 0 ? ((total - done) / bytesPerSecond) * 1000 : null;
  return { name, share: { done, total }, bytesPerSecond, leftMs, words };
}

function totalRow(view: PushView, bytesPerSecond: number): Row {
  const total = view.runs.reduce((sum, run) => sum + run.totalBytes, 0);
  const there = view.runs.reduce((sum, run) => sum + bytesThere(run), 0);
  const done = view.runs.filter((run) => run.stage === 'done').length;
  const words = `${done} of ${view.runs.length} runs done, ${formatBytes(there)} of ${formatBytes(total)}`;
  return sendingRow('total', there, total, bytesPerSecond, words);
}

/** How much room the parts get, from wide to narrow. */
const LAYOUTS = [
  { barCells: 20, gap: '  ', timeCells: '59 min 59 s left'.length },
  { barCells: 10, gap: '  ', timeCells: '59 min 59 s left'.length },
  { barCells: 6, gap: ' ', timeCells: '59 min 59 s left'.length },
  { barCells: 5, gap: ' ', timeCells: '59 min'.length },
] as const;
type Layout = (typeof LAYOUTS)[number];
const SHARE_CELLS = ' 100 %'.length;
const RATE_CELLS = '999 bytes/s'.length;
const LONGEST_LEFT_MS = 99 * 3_600_000;
/** A name is cut below this only when the narrowest layout has no more room. */
const NAME_CELLS = 24;

/**
 * All lines in columns of the same widths, in the widest layout that leaves enough of the names. Widths depend on the
 * terminal and the names only, so that nothing moves while numbers change. Words come last.
 */
function layOut(rows: readonly Row[], cells: number): string[] {
  const longestName = Math.max(
    0,
    ...rows.filter(({ share }) => share !== null).map(({ name }) => name.length),
  );
  const roomBy = ({ barCells, gap, timeCells }: Layout) =>
    cells - 1 - barCells - SHARE_CELLS - gap.length - RATE_CELLS - gap.length - timeCells;
  const wanted = Math.min(longestName, NAME_CELLS);
  const layout = LAYOUTS.find((one) => roomBy(one) >= wanted) ?? LAYOUTS[3];
  const nameCells = Math.max(1, Math.min(longestName, roomBy(layout)));
  return rows.map((row) => {
    const name = cutInMiddle(row.name, row.share === null ? cells : nameCells);
    const line = row.share === null ? name : `${name.padEnd(nameCells)} ${partsOf(row, layout)}`;
    const room = cells - line.length - 2;
    if (row.words === '' || room < 4) return line.trimEnd();
    return `${line}  ${row.words.length > room ? `${row.words.slice(0, room - 1)}…` : row.words}`;
  });
}

function partsOf({ share, isVague, bytesPerSecond, leftMs, words }: Row, layout: Layout): string {
  const { barCells, gap, timeCells } = layout;
  if (share === null) return '';
  const percent = isVague ? '' : ` ${formatPercent(share.done, share.total).padStart(SHARE_CELLS - 1)}`;
  const rate = bytesPerSecond === null ? '' : `${formatBytes(bytesPerSecond)}/s`;
  const time = leftMs === null ? '' : leftMs > LONGEST_LEFT_MS ? '> 99 h' : formatDuration(leftMs);
  const left = time === '' || timeCells < 10 ? shortTime(time) : `${time} left`;
  const text = `${bar(share.done, share.total, barCells)}${percent.padEnd(SHARE_CELLS)}${gap}${rate.padStart(RATE_CELLS)}${gap}${left}`;
  return words === '' ? text.trimEnd() : text.padEnd(text.length - left.length + timeCells);
}

/** The larger unit alone: `2 min`. */
function shortTime(text: string): string {
  return /^> 99 h$|^\S+ \S+/.exec(text)?.[0] ?? '';
}

function bar(part: number, whole: number, cells: number): string {
  const filled = whole === 0 ? cells : Math.round((Math.min(part, whole) / whole) * cells);
  return '█'.repeat(filled) + '░'.repeat(cells - filled);
}

/** The ends of a name differ: of run keys the date and the offset, of files the number and the ending. */
export function cutInMiddle(name: string, cells: number): string {
  if (name.length <= cells) return name;
  const end = Math.floor((cells - 1) / 2);
  return `${name.slice(0, cells - 1 - end)}…${name.slice(name.length - end)}`;
}
