import { BACKSLASH, CARRIAGE_RETURN, NEWLINE, TAB } from './ascii.ts';

const LETTER_N = 0x4e;
const LETTER_n = 0x6e;
const LETTER_r = 0x72;
const LETTER_t = 0x74;

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

  /** Makes room for `sizeBytes` more; the writing functions rely on it and don't check again. */
  reserve(sizeBytes: number): void {
    const needed = this.length + sizeBytes;
    if (needed <= this.bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  writeByte(byte: number): void {
    this.bytes[this.length++] = byte;
  }

  /** Writes text with the escapes of COPY's text format; it takes at most twice its own length. */
  writeEscaped(source: Uint8Array, start: number, end: number): void {
    const bytes = this.bytes;
    let length = this.length;
    for (let at = start; at < end; at++) {
      let byte = source[at] as number;
      if (byte === BACKSLASH || byte === TAB || byte === NEWLINE || byte === CARRIAGE_RETURN) {
        bytes[length++] = BACKSLASH;
        if (byte === TAB) byte = LETTER_t;
        else if (byte === NEWLINE) byte = LETTER_n;
        else if (byte === CARRIAGE_RETURN) byte = LETTER_r;
      }
      bytes[length++] = byte;
    }
    this.length = length;
  }

  writeNull(): void {
    this.writeByte(BACKSLASH);
    this.writeByte(LETTER_N);
  }

  endRow(): void {
    this.writeByte(NEWLINE);
    this.rowCount++;
  }

  /** Hands over the rows written since the last call, in a buffer of their own. */
  take(): Buffer {
    const taken = Buffer.allocUnsafeSlow(this.length);
    this.bytes.copy(taken, 0, 0, this.length);
    this.length = 0;
    return taken;
  }
}
