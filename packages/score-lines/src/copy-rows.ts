import { BACKSLASH, CARRIAGE_RETURN, NEWLINE, TAB } from './ascii.ts';

const LETTER_N = 0x4e;
/** `{"pk":1,"score":1}` and its newline: no row comes from less. */
const SHORTEST_LINE_BYTES = 19;

/** The letter that stands for a byte after a backslash; 0 for the bytes that are written as they are. */
const ESCAPE_LETTERS = new Uint8Array(256);
ESCAPE_LETTERS[BACKSLASH] = BACKSLASH;
ESCAPE_LETTERS[TAB] = 0x74; // t
ESCAPE_LETTERS[NEWLINE] = 0x6e; // n
ESCAPE_LETTERS[CARRIAGE_RETURN] = 0x72; // r

/**
 * Rows of COPY's text format as they are written. One buffer is used again for every chunk, so that a file of
 * any size costs the memory of its largest chunk; `take` copies out what the caller keeps.
 *
 * `bytes` and `length` are open to the fast path, which writes rows without a call per field.
 */
export class CopyRows {
  bytes: Buffer = Buffer.allocUnsafeSlow(64 * 1024);
  length = 0;
  /** Rows ended since the start of the file. */
  rowCount = 0;
  /** The scores of the rows that `take` will hand over, as numbers. */
  scores: Float64Array = new Float64Array(4096);
  scoreCount = 0;

  /** Makes room for the rows of `sizeBytes` of lines, or for so many bytes more of one row; nobody checks again. */
  reserve(sizeBytes: number): void {
    this.#reserveScores(Math.floor(sizeBytes / SHORTEST_LINE_BYTES) + 1);
    const needed = this.length + sizeBytes;
    if (needed <= this.bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  #reserveScores(count: number): void {
    const needed = this.scoreCount + count;
    if (needed <= this.scores.length) return;
    const grown = new Float64Array(Math.max(needed, this.scores.length * 2));
    grown.set(this.scores.subarray(0, this.scoreCount));
    this.scores = grown;
  }

  writeByte(byte: number): void {
    this.bytes[this.length++] = byte;
  }

  /** Writes text with the escapes of COPY's text format; it takes at most twice its own length. */
  writeEscaped(source: Uint8Array, start: number, end: number): void {
    const bytes = this.bytes;
    let length = this.length;
    for (let at = start; at < end; at++) {
      const byte = source[at] as number;
      const letter = ESCAPE_LETTERS[byte] as number;
      if (letter === 0) bytes[length++] = byte;
      else {
        bytes[length] = BACKSLASH;
        bytes[length + 1] = letter;
        length += 2;
      }
    }
    this.length = length;
  }

  writeNull(): void {
    this.writeByte(BACKSLASH);
    this.writeByte(LETTER_N);
  }

  endRow(score: number): void {
    this.writeByte(NEWLINE);
    this.scores[this.scoreCount++] = score;
    this.rowCount++;
  }

  /** Hands over the rows written since the last call, in a buffer with an ArrayBuffer of its own. */
  take(): Buffer {
    const taken = Buffer.allocUnsafeSlow(this.length);
    this.bytes.copy(taken, 0, 0, this.length);
    this.length = 0;
    this.scoreCount = 0;
    return taken;
  }
}
