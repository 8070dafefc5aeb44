import type { FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import type { Gathering } from './store.ts';

let bodiesUnderWay = 0;

interface GatherOptions {
  readonly gathering: Gathering;
  /** More bytes than this reject with the error of `tooMuch`. */
  readonly limitBytes: number;
  tooMuch(): unknown;
  /** Aborted when another request takes over, or the lock is lost. The bytes that have arrived are still yielded. */
  readonly signal: AbortSignal;
  /** Called when bytes arrive, to distinguish a slow sender from a dead one. */
  onProgress(): void;
}

/**
 * Yields the body of a request in pieces of the size that its store wants (one write per network chunk is slow), smaller
 * ones when there are many bodies, or a slow sender: the offset must be current at any rate. The next
 * piece arrives while the caller works on this one; when both are full, the body is paused. Ends with the body, with the
 * connection, or with the signal. The bytes that have arrived by then are yielded, so that the sender can continue from there.
 *
 * Reads Node's request directly, or its decoder: a web stream in between halves the throughput (docs/decisions/0021).
 *
 * @throws the error of `tooMuch`.
 */
export async function* gatherBody(
  body: Readable,
  { gathering, limitBytes, tooMuch, signal, onProgress }: GatherOptions,
): AsyncGenerator<readonly Uint8Array[]> {
  bodiesUnderWay += 1;
  let pieceBytes = shareOfMemory(gathering); // fixed per piece: if it grew, a full piece would wait for bytes of a paused body
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

  // The request may have ended while it waited for its lock: then no event follows.
  if (signal.aborted || body.destroyed || body.readableEnded) isOver = true;
  else body.on('data', onData).on('end', end).on('error', end).on('close', end);
  signal.addEventListener('abort', end, { once: true });
  const timer = setInterval(() => {
    if (gatheredBytes === 0) return;
    isDue = true;
    wake();
  }, gathering.longestMs).unref();
  try {
    for (;;) {
      if (!isOver && gatheredBytes < pieceBytes && !isDue) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (isTooMuch) throw tooMuch();
      if (gathered.length === 0) return; // woken without bytes: the body has ended
      const piece = gathered;
      gathered = [];
      gatheredBytes = 0;
      isDue = false;
      pieceBytes = shareOfMemory(gathering);
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

function shareOfMemory({ mostBytes, leastBytes, sharedBytes }: Gathering): number {
  return Math.max(leastBytes, Math.min(mostBytes, sharedBytes / bodiesUnderWay));
}

/** The bytes of a request are synced whenever this many are new, so that little is left to sync at its end. */
const SYNC_BYTES = 4 * 1024 * 1024;
/** The offset is recorded whenever this many bytes are new: a crash costs about this much. */
const RECORD_BYTES = 32 * 1024 * 1024;
/** The bytes of a slow sender are synced and recorded after this time: the offset must be current at any rate. */
const RECORD_AFTER_MS = 2_000;
const CHECK_EVERY_MS = 250;

interface DurableWrite {
  readonly file: FileHandle;
  readonly pieces: AsyncIterable<readonly Uint8Array[]>;
  /** The position of the first byte; all bytes before it are synced already. */
  readonly offsetBytes: number;
  /** Called at intervals and at the end with the offset up to which the file is synced; never concurrently. */
  onDurable(offsetBytes: number): Promise<void>;
  /** Called before each write. Rejects when the right to write is lost. */
  mayWrite(): Promise<void>;
}

/**
 * Writes pieces one after the other, while the next one arrives, and syncs them (fdatasync) concurrently: bytes that are
 * written during one sync belong to the next.
 *
 * @returns the durable offset; `onDurable` was called with it.
 * @throws the file system's error. Bytes after the last `onDurable` then do not count. A failed sync is never repeated,
 *   because the kernel may have dropped the pages; the next writer truncates the file to the recorded offset.
 */
export async function writeDurably({
  file,
  pieces,
  offsetBytes,
  onDurable,
  mayWrite,
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
    await mayWrite();
    writtenBytes += await writeAll(file, piece, writtenBytes);
    freeChunks(piece);
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
    awaitLater(syncing);
  };
  // By a timer, because the next piece may be late. A failed sync is not repeated, and its bytes are never recorded.
  const timer = setInterval(() => {
    if (!isSyncing && !hasFailed && writtenBytes > recordedBytes && isLate()) startSync();
  }, CHECK_EVERY_MS).unref();

  try {
    for await (const piece of pieces) {
      await writing;
      if (!isSyncing) await syncing; // it has ended: an error is thrown here, not only after the last byte
      if (!isSyncing && writtenBytes - syncedBytes >= SYNC_BYTES) startSync();
      writing = write(piece);
      awaitLater(writing);
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
    // The caller closes the file: no call may be under way on it then.
    await Promise.allSettled([writing, syncing]);
  }
}

/**
 * Frees the memory of chunks that nobody reads any more, now and not when V8 collects garbage: chunks that wait for others
 * of their piece have reached its old generation by then, and would stay there until about 64 MB of them had come together.
 * A chunk that shares its memory with others, as those of a decoder do, is left to V8.
 */
export function freeChunks(chunks: readonly Uint8Array[]): void {
  for (const { buffer, byteLength } of chunks)
    if (buffer instanceof ArrayBuffer && byteLength > 0 && byteLength === buffer.byteLength)
      buffer.transfer(0);
}

/** The promise is awaited later. This only prevents an early failure from being reported as unhandled. */
function awaitLater(promise: Promise<void>): void {
  promise.catch(() => {});
}

/** Repeats `writev`, which may write fewer bytes than it got, until all are written. @returns the bytes of the piece. */
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
