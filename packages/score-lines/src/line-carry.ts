import { NEWLINE } from './ascii.ts';

/** The beginning of a line whose end has not come yet. */
export class LineCarry {
  #bytes: Buffer = Buffer.allocUnsafeSlow(4096);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** The bytes so far, a view that holds until the next call of `append`. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  append(source: Buffer, start: number, end: number): void {
    this.#reserve(end - start);
    source.copy(this.#bytes, this.#length, start, end);
    this.#length += end - start;
  }

  appendNewline(): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = NEWLINE;
  }

  clear(): void {
    this.#length = 0;
  }

  /** Doubles, so that a long line in small chunks is not copied again for each of them. */
  #reserve(sizeBytes: number): void {
    const needed = this.#length + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
