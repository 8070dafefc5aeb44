import type { WriteStream } from 'node:tty';
import { createLogUpdate } from 'log-update';
import type { PushView, RunView } from './push-view.ts';
import { createRate } from './rate.ts';
import { renderBlock } from './render-block.ts';
import type { Reporter } from './reporter.ts';

const REDRAW_MS = 125;

/** The same for a person at a terminal: a block that is redrawn, and sentences that stay above it. */
export function liveProgress(stream: WriteStream, view: PushView): Reporter {
  const block = createLogUpdate(stream);
  const rates = new Map<string, ReturnType<typeof createRate>>();
  const rateOf = (key: string, totalBytes: number): number => {
    const rate = rates.get(key) ?? createRate();
    rates.set(key, rate);
    return rate(totalBytes, performance.now());
  };
  const draw = () => {
    const text = renderBlock(
      view,
      {
        ofRun: (run: RunView) => rateOf(run.label, run.sentBytes),
        ofFile: (run, name) => rateOf(`${run.label}\n${name}`, run.active.get(name)?.sentBytes ?? 0),
        total: rateOf(
          '',
          view.runs.reduce((sum, run) => sum + run.sentBytes, 0),
        ),
      },
      stream.columns || 80,
      stream.rows || 24,
    );
    block(text);
  };
  const timer = setInterval(draw, REDRAW_MS);
  return {
    say: (sentence) => block.persist(sentence),
    stop: () => {
      clearInterval(timer);
      block.clear();
      block.done();
    },
  };
}
