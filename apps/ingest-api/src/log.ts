import { fstatSync, write, writeSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import { printableJson } from 'wire';
import { describeError } from './errors.ts';

const MOST_WAITING_BYTES = 4 * 1024 * 1024;
const PIECE_BYTES = 64 * 1024;
const FULL_PIPE_AGAIN_MS = 10;
const FAULT_AGAIN_MS = 100;
/** Room for the line that counts what is missing. */
const GAP_LINE_BYTES = 1024;
/** At the end of the program, for a reader that takes nothing. */
const LAST_WAIT_MS = 1_000;

/**
 * The log of a program, on its standard output. While nobody reads it, or its disk is full, the program works as before: lines
 * wait in memory, those that exceed 4 MiB are dropped, and a line says, at any level but `fatal`, how many are missing there.
 */
export function createLogger(level: string): Logger {
  const output = new LogOutput(process.stdout.fd, (gap) =>
    log.error(gap, 'the log could not be written for a while'),
  );
  const log: Logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      hooks: { streamWrite: printableJson },
    },
    output,
  );
  process.once('exit', () => output.writeRest());
  return log;
}

interface Gap {
  readonly droppedLines: number;
  /** Why the last write failed, if one did. */
  readonly err?: string;
}

/**
 * pino's own destination for this, sonic-boom, cannot be used: once its memory is full it no longer repeats a write that
 * failed, it ends for good when a reader is replaced (EPIPE), and at the exit of the process it repeats a write that fails
 * without end.
 */
class LogOutput {
  readonly #fd: number;
  readonly #report: (gap: Gap) => void;
  /** A full pipe or socket answers EAGAIN, because Node sets O_NONBLOCK for its `process.stdout`. A disk may block. */
  readonly #neverBlocks: boolean;
  /** Whole lines, together what one write takes. */
  readonly #pieces: string[] = [];
  /** What is left of the piece that is being written. */
  #rest: Buffer = Buffer.alloc(0);
  #waitingBytes = 0;
  /** A write is under way in a thread, or will be repeated. */
  #isBusy = false;
  #isInThread = false;
  #droppedLines = 0;
  #fault: Error | null = null;

  constructor(fd: number, report: (gap: Gap) => void) {
    this.#fd = fd;
    this.#report = report;
    const kind = fstatSync(fd);
    this.#neverBlocks = kind.isFIFO() || kind.isSocket();
  }

  write(line: string): void {
    const bytes = Buffer.byteLength(line);
    if (!this.#isBusy) this.#reportGap(); // of a line that is longer than all that may wait
    // Nothing is written out of its order: the line that counts what is missing is where it is missing.
    if (this.#droppedLines > 0 || this.#waitingBytes + bytes > MOST_WAITING_BYTES) {
      this.#droppedLines += 1;
      return;
    }
    this.#append(line, bytes);
    if (!this.#isBusy) this.#writeNext();
  }

  /** For the exit of the process. What a thread is writing to a disk may come after it. */
  writeRest(): void {
    if (this.#isInThread) this.#rest = Buffer.alloc(0);
    this.#isBusy = true; // a line about a gap is only added
    let endsAtMs = Date.now() + LAST_WAIT_MS;
    while (this.#takePiece()) {
      try {
        this.#wrote(writeSync(this.#fd, this.#rest));
        endsAtMs = Date.now() + LAST_WAIT_MS;
      } catch (error) {
        if (!isFull(error) || Date.now() > endsAtMs) return; // there is nowhere to say so
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_AGAIN_MS);
      }
    }
  }

  #append(line: string, bytes: number): void {
    const last = this.#pieces.length - 1;
    const lastPiece = this.#pieces[last];
    if (lastPiece === undefined || lastPiece.length + bytes > PIECE_BYTES) this.#pieces.push(line);
    else this.#pieces[last] = lastPiece + line;
    this.#waitingBytes += bytes;
  }

  #writeNext(): void {
    this.#isBusy = true;
    try {
      while (this.#takePiece()) {
        if (!this.#neverBlocks) {
          this.#writeInThread();
          return;
        }
        this.#wrote(writeSync(this.#fd, this.#rest));
      }
      this.#isBusy = false;
    } catch (error) {
      this.#tryAgain(error as Error);
    }
  }

  #writeInThread(): void {
    this.#isInThread = true;
    write(this.#fd, this.#rest, (error, bytes) => {
      this.#isInThread = false;
      if (error === null) {
        this.#wrote(bytes);
        this.#writeNext();
      } else this.#tryAgain(error);
    });
  }

  #tryAgain(error: Error): void {
    if (!isFull(error)) this.#fault = error;
    setTimeout(() => this.#writeNext(), isFull(error) ? FULL_PIPE_AGAIN_MS : FAULT_AGAIN_MS).unref();
  }

  /** @returns whether there is something to write. */
  #takePiece(): boolean {
    if (this.#rest.length === 0) this.#rest = Buffer.from(this.#pieces.shift() ?? '');
    return this.#rest.length > 0;
  }

  #wrote(bytes: number): void {
    this.#rest = this.#rest.subarray(bytes);
    this.#waitingBytes -= bytes;
    this.#reportGap();
  }

  #reportGap(): void {
    if (this.#fault === null && this.#droppedLines === 0) return;
    if (this.#waitingBytes + GAP_LINE_BYTES > MOST_WAITING_BYTES) return;
    const err = this.#fault === null ? {} : { err: describeError(this.#fault) };
    const gap = { droppedLines: this.#droppedLines, ...err };
    this.#fault = null;
    this.#droppedLines = 0;
    this.#report(gap);
  }
}

function isFull(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'EAGAIN';
}
