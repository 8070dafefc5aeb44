import type { FileHandle } from 'node:fs/promises';

/** Small network chunks are gathered to about this much before they are written (traps: one write a chunk is slow). */
const GATHER_BYTES = 1024 * 1024;

/** After so many bytes of one request they are synced and their offset recorded, so that a crash costs no more. */
const CHECKPOINT_BYTES = 64 * 1024 * 1024;

export interface DurableWrite {
  readonly file: FileHandle;
  readonly source: AsyncIterable<Uint8Array>;
  /** Where the first byte goes; everything before it is on the disk already. */
  readonly offsetBytes: number;
  /** Called after each sync with the offset up to which the file is safe; awaited before the next one. */
  onDurable(offsetBytes: number): Promise<void>;
  /** Called as bytes come in, to tell a slow sender from a dead one. */
  onProgress(): void;
}

/**
 * Writes what `source` yields, one gathered piece while the next one gathers, and syncs it (fdatasync).
 * When the source breaks off, what had come is kept and the call returns: the sender goes on from there.
 *
 * @returns the durable offset; `onDurable` has been told of it.
 * @throws the file system's error. Then nothing since the last `onDurable` counts: a failed sync is never
 *   tried again, as the kernel may have dropped the pages; the next writer truncates to the recorded offset.
 */
export async function writeDurably(write: DurableWrite): Promise<number> {
  const { file, source } = write;
  let gathered: Uint8Array[] = [];
  let gatheredBytes = 0;
  let writtenBytes = write.offsetBytes;
  let durableBytes = write.offsetBytes;
  let inFlight: Promise<void> = Promise.resolve();

  const flush = async (pieces: Uint8Array[], lengthBytes: number) => {
    await writeAll(file, pieces, lengthBytes, writtenBytes);
    writtenBytes += lengthBytes;
    if (writtenBytes - durableBytes >= CHECKPOINT_BYTES) await sync();
  };
  const sync = async () => {
    await file.datasync();
    durableBytes = writtenBytes;
    await write.onDurable(durableBytes);
  };
  const startFlush = () => {
    inFlight = flush(gathered, gatheredBytes);
    inFlight.catch(() => {}); // it is awaited below; this only keeps an early failure from being called unhandled
    gathered = [];
    gatheredBytes = 0;
  };

  try {
    for await (const chunk of source) {
      write.onProgress();
      gathered.push(chunk);
      gatheredBytes += chunk.byteLength;
      if (gatheredBytes < GATHER_BYTES) continue;
      await inFlight;
      startFlush();
    }
  } catch (error) {
    await inFlight; // a fault of the disk comes first: it is the reason why the source was destroyed
    if (!isBrokenSource(error)) throw error;
  }
  await inFlight;
  if (gatheredBytes > 0) {
    startFlush();
    await inFlight;
  }
  if (writtenBytes > durableBytes) await sync();
  return durableBytes;
}

/** What Node's streams say when the peer hung up or the request was aborted. */
function isBrokenSource(error: unknown): boolean {
  const { code, name } = error as { code?: unknown; name?: unknown };
  return (
    name === 'AbortError' ||
    code === 'ABORT_ERR' ||
    code === 'ECONNRESET' ||
    code === 'EPIPE' ||
    code === 'ERR_STREAM_PREMATURE_CLOSE' ||
    code === 'ERR_STREAM_DESTROYED'
  );
}

/** `writev` may write less than it was given: go on until all of it is written. */
async function writeAll(
  file: FileHandle,
  pieces: Uint8Array[],
  lengthBytes: number,
  positionBytes: number,
): Promise<void> {
  let left = pieces;
  let doneBytes = 0;
  while (doneBytes < lengthBytes) {
    const { bytesWritten } = await file.writev(left, positionBytes + doneBytes);
    doneBytes += bytesWritten;
    if (doneBytes < lengthBytes) left = skipBytes(left, bytesWritten);
  }
}

function skipBytes(pieces: Uint8Array[], count: number): Uint8Array[] {
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
