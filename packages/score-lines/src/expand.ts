import { once } from 'node:events';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { ZstdFrames } from './zstd-frames.ts';

export type Compression = 'gzip' | 'zstd';

/** Score lines shrink to a tenth or, with few different scores, to a fiftieth. What grows more is no score file. */
export const EXPANSION_MAX = 200;
/** So much may come out of any file, however small it is. */
export const EXPANSION_FREE_BYTES = 64 * 1024 * 1024;
const OUTPUT_BYTES = 256 * 1024;
/**
 * The text that a zstd frame may look back on, and that has to be held for it: 16 MiB, twice what `zstd -19` asks
 * for. Left to itself the decoder would take 128 MiB.
 */
const ZSTD_WINDOW_LOG_MAX = 24;

const ENDING = { gzip: 'gz', zstd: 'zst' } as const;
/** What tells the two, and plain lines, apart. */
const HEAD_BYTES = 3;

/** By the file's name: `.gz` and `.zst` are compressed, anything else is lines as they stand. */
export function compressionOf(fileName: string): Compression | undefined {
  if (/\.gz$/i.test(fileName)) return 'gzip';
  if (/\.zst$/i.test(fileName)) return 'zstd';
  return undefined;
}

/** The file is not what its name says, or far too much. The same bytes will fail again. */
export class CompressionFault extends Error {
  override readonly name = 'CompressionFault';
  readonly code: 'corrupt_compression' | 'expansion_too_large';

  constructor(code: CompressionFault['code'], detail: string, cause?: unknown) {
    super(detail, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/**
 * The lines in a compressed file; several members or frames after one another are one text. A chunk of `source` is
 * done with when the next one is asked for. Memory is bounded, whatever the file expands to.
 *
 * @param compressedBytes the size of the file: it says how much may come out, and that all of it was read.
 * @throws {CompressionFault} for a file that is empty, torn, not compressed, followed by something else, or a bomb. A file
 *   that is cut between two members or frames is a whole file of fewer lines: only its hash and line count tell.
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
  const closed = once(decoder, 'close').catch(() => {}); // its error is thrown by the reading below
  let sourceError: unknown;
  const feeding = feed(source, decoder, closed, (chunk) => {
    if (head.length < HEAD_BYTES) head.push(...chunk.subarray(0, HEAD_BYTES - head.length));
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

/** Waits for each chunk to be taken in, so that its memory may be used again. */
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
    `The file has 0 bytes; a ${compression} file of no lines has more. Whatever wrote it did not finish: write it again.`,
  );
}

function tooLarge(compressedBytes: number, capBytes: number): CompressionFault {
  return new CompressionFault(
    'expansion_too_large',
    `The file of ${compressedBytes} bytes expands to more than ${capBytes}, which is ${EXPANSION_MAX} times its size and 64 MiB; send it uncompressed if that is right.`,
  );
}

function kindOf([first, second, third]: readonly number[]): Compression | undefined {
  if (first === 0x1f && second === 0x8b) return 'gzip';
  const isFrame = first === 0x28 && second === 0xb5;
  const isSkippable = first !== undefined && first >> 4 === 5 && second === 0x2a && third === 0x4d;
  return isFrame || isSkippable ? 'zstd' : undefined;
}

function corrupt(compression: Compression, cause: unknown, head: readonly number[]): CompressionFault {
  const kind = kindOf(head);
  if (kind !== compression && head.length >= HEAD_BYTES) {
    const detail =
      kind === undefined
        ? `The file is not compressed, though its name says ${compression}: name it without .${ENDING[compression]}, or compress it.`
        : `The file is ${kind}, not ${compression} as its name says: name it *.${ENDING[kind]}.`;
    return new CompressionFault('corrupt_compression', detail, cause);
  }
  const reason = isWindowTooLarge(cause)
    ? `it needs a window of more than ${2 ** (ZSTD_WINDOW_LOG_MAX - 20)} MiB; compress it without --ultra and --long`
    : cause instanceof Error
      ? cause.message
      : String(cause);
  return new CompressionFault(
    'corrupt_compression',
    `The file cannot be expanded as ${compression}: ${reason}. Write it again.`,
    cause,
  );
}

function isWindowTooLarge(cause: unknown): boolean {
  return (
    cause instanceof Error && 'code' in cause && cause.code === 'ZSTD_error_frameParameter_windowTooLarge'
  );
}
