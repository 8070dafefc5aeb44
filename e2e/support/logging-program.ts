/**
 * A process of its own for log.test.ts: logs as the programs do, at the level of its argument. By IPC it receives how many
 * lines to log, and answers with the number of all so far; or how to end.
 */
import { createLogger } from '../../apps/ingest-api/src/log.ts';

export type LoggingOrder = number | 'end' | 'exit' | 'throw';

const TEXT = 'x'.repeat(8_000);
const [level = 'info'] = process.argv.slice(2);
const log = createLogger(level);
let lines = 0;

process.on('message', (order: LoggingOrder) => {
  if (order === 'end') return process.disconnect?.();
  if (order === 'exit') return process.exit(0);
  if (order === 'throw') throw new Error('a bug, thrown by the test');
  for (let left = order; left > 0; left -= 1) log.error({ i: lines++, text: TEXT }, 'line');
  process.send?.(lines);
});
