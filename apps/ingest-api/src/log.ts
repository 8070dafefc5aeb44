import { setTimeout as delay } from 'node:timers/promises';
import { type Logger, pino } from 'pino';
import { printableJson } from 'wire';
import { describeError } from './errors.ts';

const WITHIN_MS = 200;
const TOGETHER_BYTES = 8 * 1024;
const MOST_BYTES = 4 * 1024 * 1024;

/**
 * Gives `work` the log of the program, on its standard output, and writes its last lines at the end.
 *
 * Lines are written together, after 0.2 s at most: with a write for each, they took a sixth of the service's time for a small
 * file. While nobody reads them, or their disk is full, the program works as before: 4 MiB are kept, and lines after that are
 * counted.
 */
export async function withLog(level: string, work: (log: Logger) => Promise<void>): Promise<void> {
  const output = pino.destination({
    dest: process.stdout.fd,
    sync: false,
    minLength: TOGETHER_BYTES,
    maxLength: MOST_BYTES,
  });
  let isDue = false;
  const writeSoon = () => {
    if (isDue) return;
    isDue = true;
    setTimeout(() => {
      isDue = false;
      output.flush();
    }, WITHIN_MS).unref();
  };
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      hooks: {
        streamWrite(line) {
          writeSoon();
          return printableJson(line);
        },
      },
    },
    output,
  );

  let droppedLines = 0;
  let fault: Error | undefined;
  output.on('drop', () => {
    droppedLines += 1;
  });
  output.on('error', (error: Error) => {
    fault = error;
    writeSoon();
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

  try {
    await work(log);
  } finally {
    const isWritten = new Promise<void>((resolve) => {
      output.flush(() => resolve()); // a fault is in `fault`
    });
    await Promise.race([isWritten, delay(WITHIN_MS, undefined, { ref: false })]);
  }
}
