import { CLOSE_BRACE, COMMA, OPEN_BRACE } from './json-syntax.ts';

/** The columns of a row, in the order in which they are written. */
export const COPY_COLUMNS = ['score', 'pk', 'attributes'] as const;
/** The beginning of a stream in COPY's binary format: a signature, no flags, no extension. */
export const COPY_HEAD: Buffer = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
/** The end of the stream: a row of -1 columns. */
export const COPY_TAIL: Buffer = Buffer.of(0xff, 0xff);

/** The beginning of a row: the number of its columns, and the score (a double) with its length. */
const ROW_HEAD_BYTES = 14;
const DOUBLE_BYTES = 8;
const LENGTH_BYTES = 4;
/** The binary form of jsonb is one byte for its version, followed by the text. */
const JSONB_VERSION = 1;
/** `{"pk":1,"score":1}` and a newline: no shorter line gives a row. */
const SHORTEST_LINE_BYTES = 19;
/** A row is at most this much longer than its line: beside pk and attributes it has up to 27 bytes, a line 18. */
const EXTRA_BYTES = 9;

/**
 * Writes rows in COPY's binary format. One buffer is used again for every chunk, so that a file of any size
 * takes the memory of its largest chunk; `take` copies the rows for the caller.
 *
 * `bytes`, `length`, `scores` and the counts are public for the fast path, which writes rows without a call
 * per field.
 */
export class CopyRows {
  bytes: Buffer = Buffer.allocUnsafeSlow(64 * 1024);
  length = 0;
  /** Rows written since the start of the file. */
  rowCount = 0;
  /** The scores of the rows that the next `take` returns. */
  scores: Float64Array = new Float64Array(4096);
  scoreCount = 0;

  /**
   * Makes room for the rows of `lineBytes` bytes of whole lines with their newlines. No write checks the room
   * again.
   */
  reserve(lineBytes: number): void {
    const lines = Math.floor(lineBytes / SHORTEST_LINE_BYTES) + 1;
    this.#reserveScores(lines);
    const needed = this.length + lineBytes + lines * EXTRA_BYTES;
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

  /** Begins a row with its score; its pk and its attributes follow. */
  beginRow(score: number): void {
    this.bytes.writeInt16BE(COPY_COLUMNS.length, this.length);
    this.bytes.writeInt32BE(DOUBLE_BYTES, this.length + 2);
    this.bytes.writeDoubleBE(score, this.length + 6);
    this.length += ROW_HEAD_BYTES;
    this.scores[this.scoreCount++] = score;
    this.rowCount++;
  }

  writeText(source: Uint8Array, start: number, end: number): void {
    this.#writeLength(end - start);
    this.#writeBytes(source, start, end);
  }

  writeNull(): void {
    this.#writeLength(-1);
  }

  /**
   * Writes a JSON object of the members in `source` from spans[0] to spans[1], from spans[2] to spans[3], …
   */
  writeObject(source: Uint8Array, spans: readonly number[]): void {
    const lengthAt = this.length;
    this.#writeLength(0);
    this.#writeByte(JSONB_VERSION);
    for (let index = 0; index < spans.length; index += 2) {
      this.#writeByte(index === 0 ? OPEN_BRACE : COMMA);
      this.#writeBytes(source, spans[index] as number, spans[index + 1] as number);
    }
    this.#writeByte(CLOSE_BRACE);
    this.bytes.writeInt32BE(this.length - lengthAt - LENGTH_BYTES, lengthAt);
  }

  /** Returns the rows written since the last call, in a buffer with an ArrayBuffer of its own. */
  take(): Buffer {
    const taken = Buffer.allocUnsafeSlow(this.length);
    this.bytes.copy(taken, 0, 0, this.length);
    this.length = 0;
    this.scoreCount = 0;
    return taken;
  }

  #writeLength(sizeBytes: number): void {
    this.bytes.writeInt32BE(sizeBytes, this.length);
    this.length += LENGTH_BYTES;
  }

  #writeByte(byte: number): void {
    this.bytes[this.length++] = byte;
  }

  #writeBytes(source: Uint8Array, start: number, end: number): void {
    this.bytes.set(source.subarray(start, end), this.length);
    this.length += end - start;
  }
}
