import { open } from 'node:fs/promises';
import { createScoreLineScanner, type LineCounts, type RejectedLine } from 'score-lines';
import { unreadableSource } from '../source/source-fault.ts';

const BLOCK_BYTES = 1 << 20;

/** Reads a file with the scanner that the service loads it with. Throws only when it cannot be read. */
export async function checkFile(
  path: string,
  signal: AbortSignal,
  onReject: (rejected: RejectedLine) => void,
  onBytes: (bytes: number) => void,
): Promise<LineCounts> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw unreadableSource(path, error);
  });
  try {
    const scanner = createScoreLineScanner({ onReject });
    // Read while the block before is scanned.
    const blocks: [Buffer, Buffer] = [Buffer.allocUnsafe(BLOCK_BYTES), Buffer.allocUnsafe(BLOCK_BYTES)];
    let reading = handle.read(blocks[0], 0, BLOCK_BYTES);
    for (;;) {
      const { bytesRead } = await reading.catch((error: unknown) => {
        throw unreadableSource(path, error);
      });
      signal.throwIfAborted();
      if (bytesRead === 0) break;
      const block = blocks[0].subarray(0, bytesRead);
      blocks.reverse();
      reading = handle.read(blocks[0], 0, BLOCK_BYTES);
      reading.catch(() => {}); // told when it is awaited, if it still is
      discard(scanner.scan(block));
      onBytes(bytesRead);
    }
    discard(scanner.finish());
    return scanner.counts;
  } finally {
    await handle.close();
  }
}

/** The rows are not wanted; their memory is given back at once, and not left to the garbage collector. */
function discard(rows: Buffer): void {
  if (rows.buffer instanceof ArrayBuffer && rows.byteLength > 0) rows.buffer.transfer(0);
}
