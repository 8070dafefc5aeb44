import type { FileHandle } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';

/** Small network chunks are gathered to about this much before they are written (traps: one write a chunk is slow). */
const MOST_GATHERED_BYTES = 1024 * 1024;
const LEAST_GATHERED_BYTES = 128 * 1024;
/** A slow sender's bytes are given on after this time, however few they are: how far an upload is must be true at any rate. */
const LONGEST_GATHERED_MS = 250;
/** What all bodies may gather together; as much again may be on its way to the disk (`e2e/many-uploads.test.ts`). */
const SHARED_BYTES = 32 * 1024 * 1024;

let bodiesUnderWay = 0;

interface GatherOptions {
  /** More bytes than these end the gathering with what `tooMuch` makes. */
  readonly limitBytes: number;
  tooMuch(): unknown;
  /** Aborted when another request takes over, or the lock is lost: what had come is still given. */
  readonly signal: AbortSignal;
  /** Called as bytes come in, to tell a slow sender from a dead one. */
  onProgress(): void;
}

/**
 * The body of a request in pieces of about 1 MiB (less when many come at once, or slowly), the next one coming in while the
 * caller works on this one; when both are full the sender is held back. Ends with the body, with the connection, or with the signal:
 * what had come by then is given, as the sender can go on from there.
 *
 * Straight from Node's request: a web stream in between halves the throughput (docs/decisions/0021).
 *
 * @throws what `tooMuch` makes.
 */
export async function* gatherBody(
  body: IncomingMessage,
  { limitBytes, tooMuch, signal, onProgress }: GatherOptions,
): AsyncGenerator<readonly Uint8Array[]> {
  bodiesUnderWay += 1;
  let pieceBytes = shareOfMemory(); // the same for all of a piece: one that was full must not become too little
  let gathered: Uint8Array[] = [];
  let gatheredBytes = 0;
  let totalBytes = 0;
  let isDue = false;
  let isOver = false;
  let isTooMuch = false;
  let wake = () => {};

  const onData = (chunk: Uint8Array) => {
    totalBytes += chunk.byteLength;
    if (totalBytes > limitBytes) {
      isTooMuch = true;
      end();
      return;
    }
    onProgress();
    gathered.push(chunk);
    gatheredBytes += chunk.byteLength;
    if (gatheredBytes < pieceBytes) return;
    body.pause();
    wake();
  };
  const end = () => {
    isOver = true;
    body.off('data', onData);
    body.pause();
    wake();
  };

  // While the request waited for its lock, it may have ended already: then no event comes any more.
  if (signal.aborted || body.destroyed || body.readableEnded) isOver = true;
  else body.on('data', onData).on('end', end).on('error', end).on('close', end);
  signal.addEventListener('abort', end, { once: true });
  const timer = setInterval(() => {
    if (gatheredBytes === 0) return;
    isDue = true;
    wake();
  }, LONGEST_GATHERED_MS).unref();
  try {
    for (;;) {
      if (!isOver && gatheredBytes < pieceBytes && !isDue) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (isTooMuch) throw tooMuch();
      if (gathered.length === 0) return; // it was woken with nothing: the body is over
      const piece = gathered;
      gathered = [];
      gatheredBytes = 0;
      isDue = false;
      pieceBytes = shareOfMemory();
      if (!isOver) body.resume();
      yield piece;
    }
  } finally {
    bodiesUnderWay -= 1;
    clearInterval(timer);
    signal.removeEventListener('abort', end);
    body.off('data', onData).off('end', end).off('error', end).off('close', end);
  }
}

function shareOfMemory(): number {
  return Math.max(LEAST_GATHERED_BYTES, Math.min(MOST_GATHERED_BYTES, SHARED_BYTES / bodiesUnderWay));
}

/** So many bytes of a request are synced at a time, so that little is left to wait for at its end. */
const SYNC_BYTES = 4 * 1024 * 1024;
/** After this many their offset is recorded, so that a crash costs no more. */
const RECORD_BYTES = 32 * 1024 * 1024;
/** A slow sender's bytes are synced and recorded after this time: how far it is must be true at any rate (issue 19.9). */
const RECORD_AFTER_MS = 2_000;
const LOOK_EVERY_MS = 250;

interface DurableWrite {
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
