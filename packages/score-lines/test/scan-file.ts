import { createScoreLineScanner, type LineCounts, type RejectedLine } from '../src/index.ts';

export interface ScannedFile {
  /** Rows of COPY's binary format, without its head and tail. */
  readonly output: Buffer;
  readonly rejects: readonly RejectedLine[];
  readonly counts: LineCounts;
}

/** Scans a whole file in chunks of the sizes that `nextChunkBytes` gives; in one chunk when it is left out. */
export function scanFile(
  file: Buffer | string,
  nextChunkBytes: () => number = () => Number.POSITIVE_INFINITY,
  maxLineBytes?: number,
): ScannedFile {
  const bytes = Buffer.from(file);
  const rejects: RejectedLine[] = [];
  const scanner = createScoreLineScanner({
    onReject: (rejected) => rejects.push(rejected),
    ...(maxLineBytes === undefined ? {} : { maxLineBytes }),
  });
  const outputs: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + nextChunkBytes());
    const chunk = Uint8Array.prototype.slice.call(bytes, at, end);
    const output = scanner.scan(chunk);
    if (output.length > 0) outputs.push(output);
    chunk.fill(0xff); // A scanner that held on to the chunk would now read rubbish.
    at = end;
  }
  outputs.push(scanner.finish());
  return { output: Buffer.concat(outputs), rejects, counts: scanner.counts };
}
