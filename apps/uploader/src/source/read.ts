import type { open } from 'node:fs/promises';
import { CompressionFault, compressionOf, expand } from 'score-lines';
import { printable } from 'wire';
import { UploaderError, unreadableReason } from '../errors.ts';

type Handle = Awaited<ReturnType<typeof open>>;
export const BLOCK_BYTES = 1 << 20;

/**
 * The bytes of a file in blocks. The next block is read while the caller uses this one; a block is valid only
 * until the caller asks for the next, unless `take` has another rule: it answers a block that may be filled.
 */
export async function* readBlocks(
  handle: Handle,
  path: string,
  sizeBytes: number,
  signal: AbortSignal,
  take = twoInTurn(sizeBytes),
): AsyncGenerator<Buffer> {
  const read = () => {
    const reading = readInto(handle, take());
    // Nobody awaits the last read when the reader stops early; its error would then end the process.
    reading.catch(() => {});
    return reading;
  };
  let reading = read();
  for (;;) {
    const block = await reading.catch((error: unknown) => {
      throw unreadableSource(path, error);
    });
    signal.throwIfAborted();
    if (block.length === 0) return;
    reading = read();
    yield block;
  }
}

async function readInto(handle: Handle, taken: Buffer | Promise<Buffer>): Promise<Buffer> {
  const block = await taken;
  const { bytesRead } = await handle.read(block, 0, block.length);
  return block.subarray(0, bytesRead);
}

function twoInTurn(sizeBytes: number): () => Buffer | Promise<Buffer> {
  // For 10,000 small files, allocating two blocks of 1 MiB each would be most of the work.
  const blockBytes = Math.min(BLOCK_BYTES, sizeBytes + 1);
  const blocks = [Buffer.allocUnsafe(blockBytes), Buffer.allocUnsafe(blockBytes)] as const;
  let turn: 0 | 1 = 1;
  return () => {
    turn = turn === 0 ? 1 : 0;
    return blocks[turn];
  };
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

const PUSH_AGAIN = 'Push again when whatever writes it has finished.';

/** Without `foundAfterSending`, the run is not complete in the service, and nothing of it is loaded. */
export function changedSource(path: string): UploaderError {
  return new UploaderError('source', `${printable(path)} changed while it was pushed. ${PUSH_AGAIN}`);
}

/** The same for a file that was not there when the run was read. */
export function addedSource(path: string): UploaderError {
  return new UploaderError('source', `${printable(path)} was added while its run was pushed. ${PUSH_AGAIN}`);
}

/** The same faults after the last bytes of the run were sent: it may be complete with them. */
export function foundAfterSending(fault: unknown): unknown {
  if (!(fault instanceof UploaderError)) return fault;
  return new UploaderError(
    fault.kind,
    `${fault.message} This was found after the last bytes were sent: the service loads the run if it has all files as they were declared.`,
    { cause: fault },
  );
}
