import { CLOSE_BRACE, COMMA, OPEN_BRACE } from './ascii.ts';

/** How a row of COPY's binary format begins: the number of its columns, and the length of the first one, a double. */
const ROW_HEAD_BYTES = 14;
const COLUMNS = 3;
const DOUBLE_BYTES = 8;
const LENGTH_BYTES = 4;
/** jsonb's binary form is one byte for its version, and then the text. */
const JSONB_VERSION = 1;
/** `{"pk":1,"score":1}` and its newline: no row comes from less. */
const SHORTEST_LINE_BYTES = 19;
/** What a row takes beside its pk and its attributes, and a line beside its own: 27 bytes against 18 at least. */
const EXTRA_BYTES = 9;

/** What a stream of COPY's binary format begins with: a signature, no flags, no extension. */
export const COPY_HEAD: Buffer = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
/** What it ends with: a row of -1 columns. */
export const COPY_TAIL: Buffer = Buffer.of(0xff, 0xff);

/**
 * Rows of COPY's binary format as they are written: score, pk, attributes. One buffer is used again for every
 * chunk, so that a file of any size costs the memory of its largest chunk; `take` copies out what the caller keeps.
 *
 * `bytes`, `length`, `scores` and the counts are open to the fast path, which writes rows without a call per field.
 */
export class CopyRows {
  bytes: Buffer = Buffer.allocUnsafeSlow(64 * 1024);
  length = 0;
  /** Rows written since the start of the file. */
  rowCount = 0;
  /** The scores of the rows that `take` will hand over. */
  scores: Float64Array = new Float64Array(4096);
  scoreCount = 0;

  /** Makes room for the rows of `lineBytes` of whole lines, their newlines counted; nobody checks again. */
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
    this.bytes.writeInt16BE(COLUMNS, this.length);
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

  /** Writes a JSON object of the members that stand in `source` from spans[0] to spans[1], spans[2] to spans[3], … */
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

  /** Hands over the rows written since the last call, in a buffer with an ArrayBuffer of its own. */
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
