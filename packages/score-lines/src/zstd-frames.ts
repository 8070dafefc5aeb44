const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const MAGIC_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const RLE_BLOCK = 1;

/**
 * Follows the frames of a zstd file (RFC 8878 §3.1) by their headers, without decoding, and says whether the file ends
 * where a frame ends. Node's decoder does not: it accepts a file that lacks the last bytes of its last frame, because
 * all of the text has come out by then. What is in the blocks is the decoder's to judge.
 */
export class ZstdFrames {
  /** Whole frames so far, skippable ones included. */
  count = 0;
  /** False once bytes follow that begin no frame. */
  isZstd = true;
  #part: 'magic' | 'descriptor' | 'skippable' | 'header' | 'block' | 'checksum' = 'magic';
  #hasChecksum = false;
  #isLastBlock = false;
  /** Bytes that are passed over unseen: the rest of a header, a block's content. */
  #skipBytes = 0;
  /** What is gathered of the next number. */
  #value = 0;
  #gathered = 0;

  add(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && this.isZstd) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, chunk.length - at);
        this.#skipBytes -= skipped;
        at += skipped;
        if (this.#skipBytes === 0) this.#afterSkip();
        continue;
      }
      // Little-endian, and not by shifts: the fourth byte would make the number negative.
      this.#value += (chunk[at++] as number) * 256 ** this.#gathered++;
      if (this.#gathered === this.#wantedBytes()) {
        const value = this.#value;
        this.#value = 0;
        this.#gathered = 0;
        this.#take(value);
      }
    }
  }

  /** Whether the file may end here. */
  get isWhole(): boolean {
    return this.isZstd && this.count > 0 && this.#part === 'magic' && this.#gathered === 0;
  }

  #wantedBytes(): number {
    if (this.#part === 'descriptor') return 1;
    return this.#part === 'block' ? BLOCK_HEADER_BYTES : MAGIC_BYTES;
  }

  #take(value: number): void {
    if (this.#part === 'magic') {
      if (value === FRAME_MAGIC) this.#part = 'descriptor';
      else if (value - (value % 16) === SKIPPABLE_MAGIC) this.#part = 'skippable';
      else this.isZstd = false;
    } else if (this.#part === 'skippable') this.#skip(value);
    else if (this.#part === 'descriptor') {
      const isSingleSegment = (value & 0x20) !== 0;
      this.#hasChecksum = (value & 0x04) !== 0;
      const dictionaryBytes = [0, 1, 2, 4][value & 3] as number;
      const contentSizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][value >> 6] as number;
      this.#part = 'header';
      this.#skip((isSingleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes);
    } else {
      this.#isLastBlock = (value & 1) !== 0;
      this.#skip(((value >> 1) & 3) === RLE_BLOCK ? 1 : value >> 3);
    }
  }

  #skip(bytes: number): void {
    this.#skipBytes = bytes;
    if (bytes === 0) this.#afterSkip();
  }

  #afterSkip(): void {
    if (this.#part === 'header' || (this.#part === 'block' && !this.#isLastBlock)) this.#part = 'block';
    else if (this.#part === 'block' && this.#hasChecksum) {
      this.#part = 'checksum';
      this.#skipBytes = CHECKSUM_BYTES;
    } else {
      this.#part = 'magic';
      this.count += 1;
    }
  }
}
