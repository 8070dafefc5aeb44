import { type Logger, pino } from 'pino';
import { printableJson } from 'wire';
import { describeError } from './errors.ts';

const MOST_WAITING_BYTES = 4 * 1024 * 1024;

/**
 * The log of a program, on its standard output. While nobody reads it, or its disk is full, the program works as before: lines
 * wait in memory, those that exceed 4 MiB are dropped, and a line counts them.
 */
export function createLogger(level: string): Logger {
  const output = pino.destination({
    dest: process.stdout.fd,
    sync: false,
    maxLength: MOST_WAITING_BYTES,
  });
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      hooks: { streamWrite: printableJson },
    },
    output,
  );

  let droppedLines = 0;
  let fault: Error | undefined;
  output.on('drop', () => {
    droppedLines += 1;
  });
  output.on('error', (error: Error) => {
    fault = error; // the next line writes what waits, too
  });
  output.on('drain', () => {
    if (fault === undefined && droppedLines === 0) return;
    const detail = { droppedLines, ...(fault === undefined ? {} : { err: describeError(fault) }) };
    fault = undefined;
    droppedLines = 0;
    log.warn(detail, 'the log could not be written for a while');
  });
  // pino calls it at the exit of the process. It repeats a write that fails without end.
  const { flushSync } = output;
  output.flushSync = () => {
    if (fault === undefined) flushSync.call(output);
  };
  return log;
}
