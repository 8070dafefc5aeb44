import { open } from 'node:fs/promises';
import { createScoreLineScanner, type LineCounts, type RejectedLine } from 'score-lines';
import { readBlocks } from '../source/read-blocks.ts';
import { readText } from '../source/read-text.ts';
import { unreadableSource } from '../source/source-fault.ts';

/** Reads a file with the scanner that the service loads it with. `onBytes` is told of text, expanded if need be. */
export async function checkFile(
  path: string,
  sizeBytes: number,
  signal: AbortSignal,
  onReject: (rejected: RejectedLine) => void,
  onBytes: (bytes: number) => void,
): Promise<LineCounts> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw unreadableSource(path, error);
  });
  try {
    const scanner = createScoreLineScanner({ onReject });
    for await (const text of readText(readBlocks(handle, path, sizeBytes, signal), path, sizeBytes)) {
      discard(scanner.scan(text));
      onBytes(text.length);
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
