import type { Attribute } from 'wire';
import { createScoreLineScanner, type LineCounts, type RejectedLine } from '../src/index.ts';

interface ScannedFile {
  /** Rows of COPY's binary format, without its head and tail. */
  readonly output: Buffer;
  readonly rejects: readonly RejectedLine[];
  readonly counts: LineCounts;
}

/** Scans a whole file in chunks of the sizes that `nextChunkBytes` gives; in one chunk by default. */
export function scanFile(
  file: Buffer | string,
  nextChunkBytes: () => number = () => Number.POSITIVE_INFINITY,
  maxLineBytes?: number,
  attributes?: readonly Attribute[],
): ScannedFile {
  const bytes = Buffer.from(file);
  const rejects: RejectedLine[] = [];
  const scanner = createScoreLineScanner({
    onReject: (rejected) => rejects.push(rejected),
    attributes,
    ...(maxLineBytes === undefined ? {} : { maxLineBytes }),
  });
  const outputs: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + nextChunkBytes());
    const chunk = Uint8Array.prototype.slice.call(bytes, at, end);
    const output = scanner.scan(chunk);
    if (output.length > 0) outputs.push(output);
    chunk.fill(0xff); // A scanner that kept a reference to the chunk would now read garbage.
    at = end;
  }
  outputs.push(scanner.finish());
  return { output: Buffer.concat(outputs), rejects, counts: scanner.counts };
}

export interface CopiedRow {
  readonly score: number;
  readonly pk: string;
  readonly attributes: string | null;
}

const JSONB_VERSION = 1;

/** Reads rows of COPY's binary format by its documentation; throws for anything that the scanner must not write. */
export function readCopyBinary(output: Buffer): CopiedRow[] {
  const rows: CopiedRow[] = [];
  let at = 0;
  const field = (): Buffer | null => {
    const length = output.readInt32BE(at);
    at += 4;
    if (length === -1) return null;
    at += length;
    if (at > output.length) throw new Error('A field ends after the output.');
    return output.subarray(at - length, at);
  };
  while (at < output.length) {
    const columns = output.readInt16BE(at);
    if (columns !== 3) throw new Error(`The row at ${at} has ${columns} columns.`);
    at += 2;
    const [score, pk, attributes] = [field(), field(), field()];
    if (score?.length !== 8 || pk === null) throw new Error('A row without a double or without a key.');
    if (attributes !== null && attributes[0] !== JSONB_VERSION)
      throw new Error('A jsonb of another version.');
    rows.push({
      score: score.readDoubleBE(0),
      pk: pk.toString('utf8'),
      attributes: attributes === null ? null : attributes.toString('utf8', 1),
    });
  }
  return rows;
}
