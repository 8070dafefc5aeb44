import type { IncomingMessage } from 'node:http';

/** Small network chunks are gathered to about this much before they are written (traps: one write a chunk is slow). */
const MOST_GATHERED_BYTES = 1024 * 1024;
const LEAST_GATHERED_BYTES = 128 * 1024;
/** A slow sender's bytes are given on after this time, however few they are: how far an upload is must be true at any rate. */
const LONGEST_GATHERED_MS = 250;
/** What all bodies may gather together; as much again may be on its way to the disk (`e2e/many-uploads.test.ts`). */
const SHARED_BYTES = 32 * 1024 * 1024;

let bodiesUnderWay = 0;

export interface GatherOptions {
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
