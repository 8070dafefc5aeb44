import type { FileHandle } from 'node:fs/promises';

/** After so many bytes of one request they are synced and their offset recorded, so that a crash costs no more. */
const CHECKPOINT_BYTES = 32 * 1024 * 1024;

export interface DurableWrite {
  readonly file: FileHandle;
  readonly pieces: AsyncIterable<readonly Uint8Array[]>;
  /** Where the first byte goes; everything before it is on the disk already. */
  readonly offsetBytes: number;
  /** Called after each sync with the offset up to which the file is safe; never twice at once. */
  onDurable(offsetBytes: number): Promise<void>;
  /** Called before each write; rejects when the right to write is lost. */
  assertMayWrite(): Promise<void>;
}

/**
 * Writes pieces one after the other, the next one coming in meanwhile, and syncs them (fdatasync): every
 * 32 MiB beside the writing, and at the end.
 *
 * @returns the durable offset; `onDurable` has been told of it.
 * @throws the file system's error. Then nothing since the last `onDurable` counts: a failed sync is never
 *   tried again, as the kernel may have dropped the pages; the next writer truncates to the recorded offset.
 */
export async function writeDurably({
  file,
  pieces,
  offsetBytes,
  onDurable,
  assertMayWrite,
}: DurableWrite): Promise<number> {
  let writtenBytes = offsetBytes;
  let checkpointBytes = offsetBytes;
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> = Promise.resolve();

  const write = async (piece: readonly Uint8Array[]) => {
    await assertMayWrite();
    writtenBytes += await writeAll(file, piece, writtenBytes);
  };
  const sync = async (toBytes: number) => {
    await file.datasync();
    await onDurable(toBytes);
  };
  const startSync = () => {
    checkpointBytes = writtenBytes; // what is written while it runs belongs to the next one
    syncing = sync(checkpointBytes);
    heardLater(syncing);
  };

  try {
    for await (const piece of pieces) {
      await writing;
      if (writtenBytes - checkpointBytes >= CHECKPOINT_BYTES) {
        await syncing;
        startSync();
      }
      writing = write(piece);
      heardLater(writing);
    }
    await writing;
    await syncing;
    if (writtenBytes > checkpointBytes) {
      startSync();
      await syncing;
    }
    return writtenBytes;
  } finally {
    // The caller closes the file: nothing may be under way on it then.
    await Promise.allSettled([writing, syncing]);
  }
}

/** It is awaited later; this only keeps an early failure from being called unhandled. */
function heardLater(promise: Promise<void>): void {
  promise.catch(() => {});
}

/** `writev` may write less than it was given: goes on until all of it is written. @returns how much that is. */
async function writeAll(
  file: FileHandle,
  piece: readonly Uint8Array[],
  positionBytes: number,
): Promise<number> {
  let left = piece;
  let doneBytes = 0;
  while (left.length > 0) {
    const { bytesWritten } = await file.writev(left, positionBytes + doneBytes);
    doneBytes += bytesWritten;
    left = skipBytes(left, bytesWritten);
  }
  return doneBytes;
}

function skipBytes(pieces: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  const rest: Uint8Array[] = [];
  for (const piece of pieces) {
    if (skip >= piece.byteLength) skip -= piece.byteLength;
    else {
      rest.push(skip > 0 ? piece.subarray(skip) : piece);
      skip = 0;
    }
  }
  return rest;
}
