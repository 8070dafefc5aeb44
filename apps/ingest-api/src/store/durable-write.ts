import type { FileHandle } from 'node:fs/promises';

/** So many bytes of a request are synced at a time, so that little is left to wait for at its end. */
const SYNC_BYTES = 4 * 1024 * 1024;
/** After this many their offset is recorded, so that a crash costs no more. */
const RECORD_BYTES = 32 * 1024 * 1024;
/** A slow sender's bytes are synced and recorded after this time: how far it is must be true at any rate (issue 19.9). */
const RECORD_AFTER_MS = 2_000;
const LOOK_EVERY_MS = 250;

export interface DurableWrite {
  readonly file: FileHandle;
  readonly pieces: AsyncIterable<readonly Uint8Array[]>;
  /** Where the first byte goes; everything before it is on the disk already. */
  readonly offsetBytes: number;
  /** Called now and then, and at the end, with the offset up to which the file is safe; never twice at once. */
  onDurable(offsetBytes: number): Promise<void>;
  /** Called before each write; rejects when the right to write is lost. */
  assertMayWrite(): Promise<void>;
}

/**
 * Writes pieces one after the other, the next one coming in meanwhile, and syncs them (fdatasync) beside the
 * writing: what has been written while one sync was under way belongs to the next.
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
  let syncedBytes = offsetBytes; // or being synced
  let recordedBytes = offsetBytes;
  let recordedAtMs = performance.now();
  let isSyncing = false;
  let hasFailed = false;
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> = Promise.resolve();

  const write = async (piece: readonly Uint8Array[]) => {
    await assertMayWrite();
    writtenBytes += await writeAll(file, piece, writtenBytes);
  };
  const sync = async (toBytes: number) => {
    try {
      await file.datasync();
      if (toBytes - recordedBytes >= RECORD_BYTES || isLate()) await record(toBytes);
    } catch (error) {
      hasFailed = true;
      throw error;
    } finally {
      isSyncing = false;
    }
  };
  const record = async (toBytes: number) => {
    await onDurable(toBytes);
    recordedBytes = toBytes;
    recordedAtMs = performance.now();
  };
  const isLate = () => performance.now() - recordedAtMs >= RECORD_AFTER_MS;
  const startSync = () => {
    isSyncing = true;
    syncedBytes = writtenBytes;
    syncing = sync(syncedBytes);
    heardLater(syncing);
  };
  // Not with the next piece, which may take its time. A sync that failed is not tried again, and never recorded.
  const timer = setInterval(() => {
    if (!isSyncing && !hasFailed && writtenBytes > recordedBytes && isLate()) startSync();
  }, LOOK_EVERY_MS).unref();

  try {
    for await (const piece of pieces) {
      await writing;
      if (!isSyncing) await syncing; // it is over: whether it failed is heard here, not with the last byte
      if (!isSyncing && writtenBytes - syncedBytes >= SYNC_BYTES) startSync();
      writing = write(piece);
      heardLater(writing);
    }
    clearInterval(timer);
    await writing;
    await syncing;
    if (writtenBytes > syncedBytes) {
      startSync();
      await syncing;
    }
    if (writtenBytes > recordedBytes) await record(writtenBytes);
    return writtenBytes;
  } finally {
    clearInterval(timer);
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
