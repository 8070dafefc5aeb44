import { write, writeSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import { printableJson } from 'wire';
import { describeError } from './errors.ts';

const MOST_WAITING_BYTES = 4 * 1024 * 1024;
const PIECE_BYTES = 64 * 1024;
const TRY_AGAIN_MS = 100;
/** Room for the line that counts what is missing. */
const GAP_LINE_BYTES = 1024;

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
  /** Whole lines, together what one write takes. */
  readonly #pieces: string[] = [];
  /** What is left of the piece that is being written. */
  #rest: Buffer = Buffer.alloc(0);
  #waitingBytes = 0;
  #isWriting = false;
  #droppedLines = 0;
  #fault: Error | null = null;

  constructor(fd: number, report: (gap: Gap) => void) {
    this.#fd = fd;
    this.#report = report;
  }

  write(line: string): void {
    const bytes = Buffer.byteLength(line);
    if (this.#waitingBytes + bytes > MOST_WAITING_BYTES) {
      this.#droppedLines += 1;
      return;
    }
    this.#append(line, bytes);
    if (!this.#isWriting) this.#writeNext();
  }

  /** For the exit of the process: once, and not what a write that is under way has. */
  writeRest(): void {
    try {
      if (this.#isWriting) this.#rest = Buffer.alloc(0);
      this.#isWriting = true; // a line about a gap is only added
      while (this.#takePiece()) this.#wrote(writeSync(this.#fd, this.#rest));
    } catch {
      // There is nowhere to say so.
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
    this.#isWriting = this.#takePiece();
    if (!this.#isWriting) return;
    write(this.#fd, this.#rest, (error, bytes) => {
      if (error === null) {
        this.#wrote(bytes);
        this.#writeNext();
      } else {
        // EAGAIN: a pipe of another program, which must not block, is full.
        if (error.code !== 'EAGAIN') this.#fault = error;
        setTimeout(() => this.#writeNext(), TRY_AGAIN_MS).unref();
      }
    });
  }

  /** @returns whether there is something to write. */
  #takePiece(): boolean {
    if (this.#rest.length === 0) this.#rest = Buffer.from(this.#pieces.shift() ?? '');
    return this.#rest.length > 0;
  }

  #wrote(bytes: number): void {
    this.#rest = this.#rest.subarray(bytes);
    this.#waitingBytes -= bytes;
    if (this.#fault === null && this.#droppedLines === 0) return;
    if (this.#waitingBytes + GAP_LINE_BYTES > MOST_WAITING_BYTES) return;
    const err = this.#fault === null ? {} : { err: describeError(this.#fault) };
    const gap = { droppedLines: this.#droppedLines, ...err };
    this.#fault = null;
    this.#droppedLines = 0;
    this.#report(gap);
  }
}
