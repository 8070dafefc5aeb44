import type { WriteStream } from 'node:tty';
import { createLogUpdate } from 'log-update';
import { printableLines } from 'score-lines';
import type { FileView, PushView, RunView } from './push-view.ts';
import { createRate } from './rate.ts';
import { renderBlock } from './render-block.ts';
import type { Reporter } from './reporter.ts';

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
