/**
 * The long form of the torture: `npm run torture -- [--kills 1000] [--minutes 120] [--lines 60000] [--seed N]`.
 * Prints a line a run, and at the end how often each was killed.
 */
import { parseArgs } from 'node:util';
import { runTorture } from './run-torture.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '1000' },
    minutes: { type: 'string', default: '120' },
    lines: { type: 'string', default: '60000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
  },
});
console.log(`seed ${values.seed}`);
const report = await runTorture({
  seed: Number(values.seed),
  kills: Number(values.kills),
  forMs: Number(values.minutes) * 60_000,
  linesPerRun: Number(values.lines),
  tell: (line) => console.log(line),
});
console.log(JSON.stringify(report));
