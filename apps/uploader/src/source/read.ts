import type { open } from 'node:fs/promises';
import { CompressionFault, compressionOf, expand } from 'score-lines';
import { printable } from 'wire';
import { UploaderError, unreadableReason } from '../errors.ts';

type Handle = Awaited<ReturnType<typeof open>>;
const BLOCK_BYTES = 1 << 20;

/**
 * The bytes of a file in blocks. The next block is read while the caller uses this one; a block is valid only
 * until the caller asks for the next.
 */
export async function* readBlocks(
  handle: Handle,
  path: string,
  sizeBytes: number,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  // For 10,000 small files, allocating two blocks of 1 MiB each would be most of the work.
  const blockBytes = Math.min(BLOCK_BYTES, sizeBytes + 1);
  const blocks: [Buffer, Buffer] = [Buffer.allocUnsafe(blockBytes), Buffer.allocUnsafe(blockBytes)];
  const read = () => {
    const reading = handle.read(blocks[0], 0, blockBytes);
    // Nobody awaits the last read when the reader stops early; its error would then end the process.
    reading.catch(() => {});
    return reading;
  };
  let reading = read();
  for (;;) {
    const { bytesRead } = await reading.catch((error: unknown) => {
      throw unreadableSource(path, error);
    });
    signal.throwIfAborted();
    if (bytesRead === 0) return;
    const block = blocks[0].subarray(0, bytesRead);
    blocks.reverse();
    reading = read();
    yield block;
  }
}

/** The text of a file, decompressed if its name says so, as in the service. */
export async function* readText(
  blocks: AsyncIterable<Buffer>,
  path: string,
  sizeBytes: number,
): AsyncGenerator<Buffer> {
  const compression = compressionOf(path);
  if (compression === undefined) {
    yield* blocks;
    return;
  }
  try {
    yield* expand(blocks, compression, sizeBytes);
  } catch (error) {
    if (!(error instanceof CompressionFault)) throw error;
    throw new UploaderError('data', `${path}: ${error.message}`, { cause: error });
  }
}

export function unreadableSource(path: string, error: unknown): UploaderError {
  const reason = unreadableReason(error).replace(/^it /, '');
  return new UploaderError('source', `${printable(path)} ${reason}.`, { cause: error });
}

export function changedSource(path: string): UploaderError {
  return new UploaderError(
    'source',
    `${printable(path)} changed while it was pushed. Push again when whatever writes it has finished.`,
  );
}
