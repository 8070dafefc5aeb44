import { once } from 'node:events';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { FORMAT_BYTES, otherFormatOf } from './likely-cause.ts';

type Compression = 'gzip' | 'zstd';

/** Score lines compress to a tenth of their size or, with few different scores, to a fiftieth. */
const EXPANSION_MAX = 200;
/** Any file may expand to this size, however small it is. */
const EXPANSION_FREE_BYTES = 64 * 1024 * 1024;
const OUTPUT_BYTES = 256 * 1024;
/**
 * The window of a zstd frame, which the decoder has to hold in memory: 16 MiB, twice what `zstd -19` uses.
 * The decoder's default limit is 128 MiB.
 */
const ZSTD_WINDOW_LOG_MAX = 24;

const ENDING = { gzip: 'gz', zstd: 'zst' } as const;

/** By the file's name: `.gz` and `.zst` are compressed, any other file is plain lines. */
export function compressionOf(fileName: string): Compression | undefined {
  if (/\.gz$/i.test(fileName)) return 'gzip';
  if (/\.zst$/i.test(fileName)) return 'zstd';
  return undefined;
}

/** The file is not what its name says, or expands too much. The same bytes fail again on every attempt. */
export class CompressionFault extends Error {
  override readonly name = 'CompressionFault';
  readonly code: 'corrupt_compression' | 'expansion_too_large';

  constructor(code: CompressionFault['code'], detail: string, cause?: unknown) {
    super(detail, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/**
 * The text of a compressed file; consecutive members or frames are one text. A chunk of `source` is no longer
 * used when the next one is requested. Memory is bounded, whatever the file expands to.
 *
 * @param compressedBytes the size of the file: it limits the expansion, and shows that the whole file was
 *   decoded.
 * @throws {CompressionFault} for a file that is empty, truncated, not compressed, followed by other bytes, or
 *   a bomb. A file that is cut between two members or frames is a complete file of fewer lines: only hash and
 *   line count show it.
 */
export async function* expand(
  source: AsyncIterable<Uint8Array>,
  compression: Compression,
  compressedBytes: number,
): AsyncGenerator<Buffer> {
  if (compressedBytes === 0) throw empty(compression);
  const decoder = createDecoder(compression);
  const head: number[] = [];
  const frames = compression === 'zstd' ? new ZstdFrames() : undefined;
  const closed = once(decoder, 'close').catch(() => {}); // the loop below throws its error
  let sourceError: unknown;
  const feeding = feed(source, decoder, closed, (chunk) => {
    if (head.length < FORMAT_BYTES) head.push(...chunk.subarray(0, FORMAT_BYTES - head.length));
    frames?.add(chunk);
  }).catch((error: unknown) => {
    sourceError = error;
    decoder.destroy();
  });
  const capBytes = EXPANSION_FREE_BYTES + EXPANSION_MAX * compressedBytes;
  let expandedBytes = 0;
  try {
    for await (const chunk of decoder as AsyncIterable<Buffer>) {
      expandedBytes += chunk.byteLength;
      if (expandedBytes > capBytes) throw tooLarge(compressedBytes, capBytes);
      yield chunk;
    }
    if (decoder.bytesWritten < compressedBytes) {
      throw new Error(`only ${decoder.bytesWritten} of its ${compressedBytes} bytes are ${compression} data`);
    }
    if (frames?.isWhole === false) throw new Error('it ends in the middle of a frame');
  } catch (error) {
    if (sourceError !== undefined) throw sourceError;
    throw error instanceof CompressionFault ? error : corrupt(compression, error, head);
  } finally {
    decoder.destroy();
    await feeding;
  }
}

function createDecoder(compression: Compression) {
  if (compression === 'gzip') return createGunzip({ chunkSize: OUTPUT_BYTES });
  const params = { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX };
  return createZstdDecompress({ chunkSize: OUTPUT_BYTES, params });
}

/** Waits until the decoder has consumed each chunk, so that its memory can be used again. */
async function feed(
  source: AsyncIterable<Uint8Array>,
  decoder: NodeJS.WritableStream,
  closed: Promise<unknown>,
  see: (chunk: Uint8Array) => void,
): Promise<void> {
  let isClosed = false;
  void closed.then(() => {
    isClosed = true;
  });
  for await (const chunk of source) {
    see(chunk);
    await Promise.race([new Promise<void>((resolve) => decoder.write(chunk, () => resolve())), closed]);
    if (isClosed) return;
  }
  decoder.end();
}

function empty(compression: Compression): CompressionFault {
  return new CompressionFault(
    'corrupt_compression',
    `The file has 0 bytes; even a ${compression} file without lines has more. Its writer did not finish: write it again.`,
  );
}

function tooLarge(compressedBytes: number, capBytes: number): CompressionFault {
  return new CompressionFault(
    'expansion_too_large',
    `The file of ${compressedBytes} bytes expands to more than ${capBytes} bytes, ${EXPANSION_MAX} times its size plus 64 MiB. If its content is right, send it uncompressed.`,
  );
}

function kindOf([first, second, third]: readonly number[]): Compression | undefined {
  if (first === 0x1f && second === 0x8b) return 'gzip';
  const isFrame = first === 0x28 && second === 0xb5;
  const isSkippable = first !== undefined && first >> 4 === 5 && second === 0x2a && third === 0x4d;
  return isFrame || isSkippable ? 'zstd' : undefined;
}

/** Enough bytes to distinguish gzip and zstd. */
const KIND_BYTES = 3;

function corrupt(compression: Compression, cause: unknown, head: readonly number[]): CompressionFault {
  const kind = kindOf(head);
  if (kind !== compression && head.length >= KIND_BYTES) {
    const other = otherFormatOf(Uint8Array.from(head));
    const plain = `is not compressed, but its name says ${compression}: name it without .${ENDING[compression]}, or compress it`;
    const isOther =
      other === undefined ? plain : `${other.is}, but its name says ${compression}: ${other.remedy}`;
    const is =
      kind === undefined
        ? isOther
        : `is compressed with ${kind}, but its name says ${compression}: name it *.${ENDING[kind]}`;
    return new CompressionFault('corrupt_compression', `The file ${is}.`, cause);
  }
  const reason = isWindowTooLarge(cause)
    ? `it needs a window of more than ${2 ** (ZSTD_WINDOW_LOG_MAX - 20)} MiB; compress it without --ultra and --long`
    : isCutOff(cause)
      ? 'it ends too early: it was truncated, or was still being written'
      : cause instanceof Error
        ? cause.message
        : String(cause);
  return new CompressionFault(
    'corrupt_compression',
    `The file cannot be decompressed as ${compression}: ${reason}. Write it again.`,
    cause,
  );
}

/** zlib's "unexpected end of file". */
function isCutOff(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === 'Z_BUF_ERROR';
}

function isWindowTooLarge(cause: unknown): boolean {
  return (
    cause instanceof Error && 'code' in cause && cause.code === 'ZSTD_error_frameParameter_windowTooLarge'
  );
}

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const MAGIC_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const RLE_BLOCK = 1;

/**
 * Follows the frames of a zstd file (RFC 8878 §3.1) by their headers, without decoding, to check that the
 * file ends where a frame ends. Node's decoder does not check it: it accepts a file without the last bytes of
 * its last frame, because by then it has returned all of the text. The decoder checks the content of the
 * blocks.
 */
export class ZstdFrames {
  /** Whole frames so far, skippable ones included. */
  count = 0;
  /** The largest window that a frame so far asks its decoder to keep in memory. */
  largestWindowBytes = 0;
  /** False once bytes follow that do not begin a frame. */
  isZstd = true;
  #part:
    | 'magic'
    | 'descriptor'
    | 'window'
    | 'dictionary'
    | 'content_size'
    | 'skippable'
    | 'header'
    | 'block'
    | 'checksum' = 'magic';
  #hasChecksum = false;
  #isLastBlock = false;
  #dictionaryBytes = 0;
  #contentSizeBytes = 0;
  /** Bytes to skip: the rest of a header, the content of a block. */
  #skipBytes = 0;
  /** The bytes of the next number so far. */
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
    if (this.#part === 'descriptor' || this.#part === 'window') return 1;
    if (this.#part === 'content_size') return this.#contentSizeBytes;
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
      this.#dictionaryBytes = [0, 1, 2, 4][value & 3] as number;
      this.#contentSizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][value >> 6] as number;
      this.#part = isSingleSegment ? 'dictionary' : 'window';
      if (isSingleSegment) this.#skip(this.#dictionaryBytes);
    } else if (this.#part === 'window') {
      const base = 2 ** (10 + (value >> 3));
      this.#noteWindow(base + (base / 8) * (value & 7));
      this.#part = 'header';
      this.#skip(this.#dictionaryBytes + this.#contentSizeBytes);
    } else if (this.#part === 'content_size') {
      // A frame of a single segment: its content is its window. (Sizes of two bytes count from 256.)
      this.#noteWindow(value);
      this.#part = 'block';
    } else {
      this.#isLastBlock = (value & 1) !== 0;
      this.#skip(((value >> 1) & 3) === RLE_BLOCK ? 1 : value >> 3);
    }
  }

  #noteWindow(bytes: number): void {
    this.largestWindowBytes = Math.max(this.largestWindowBytes, bytes);
  }

  #skip(bytes: number): void {
    this.#skipBytes = bytes;
    if (bytes === 0) this.#afterSkip();
  }

  #afterSkip(): void {
    if (this.#part === 'dictionary') this.#part = 'content_size';
    else if (this.#part === 'header' || (this.#part === 'block' && !this.#isLastBlock)) this.#part = 'block';
    else if (this.#part === 'block' && this.#hasChecksum) {
      this.#part = 'checksum';
      this.#skipBytes = CHECKSUM_BYTES;
    } else {
      this.#part = 'magic';
      this.count += 1;
    }
  }
}
