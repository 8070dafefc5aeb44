import { createHash } from 'node:crypto';
import { CompressionFault, createScoreLineScanner, type KeyOrder, type ScoreProfile } from 'score-lines';
import type { ClaimedFile } from './claim-next-load.ts';
import type { CopySink } from './copy-sink.ts';
import { DataFault } from './data-fault.ts';
import { readLines, readStored } from './read-lines.ts';
import type { RejectList } from './reject-list.ts';

export interface CopyTarget {
  readonly dataDir: string;
  readonly sink: CopySink;
  readonly keyOrder: KeyOrder;
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
  /** Throws a DataFault when the run is too large with these bytes of lines and rows of this file. */
  checkLimits(decodedBytes: number, rows: number): void;
  /** The bytes of the file that were read, and the rows that came of them so far. */
  onProgress(bytes: number, rows: number): void;
}

export interface CopiedFile {
  /** As the file lies on the disk, compressed or not. */
  readonly bytes: number;
  /** Of lines, decompressed. */
  readonly decodedBytes: number;
  readonly rows: number;
  /** Nothing more of the run is to be read. */
  readonly isOverLimit: boolean;
  /** It is not what was declared, or cannot be expanded. */
  readonly fault: DataFault | undefined;
}

/** Sends the rows of one file to the COPY, and proves that the file is the one that was declared. */
export async function copyFile(file: ClaimedFile, target: CopyTarget): Promise<CopiedFile> {
  const { dataDir, sink, keyOrder, rejects, scores } = target;
  const hash = createHash('sha256');
  let bytes = 0;
  let decodedBytes = 0;
  const scanner = createScoreLineScanner({
    onReject: (rejected) => rejects.add(file.name, rejected),
    profile: scores,
  });
  const send = async (rows: Buffer) => {
    // Rows that will never be published are not sent.
    if (!rejects.isTooLong && rows.byteLength > 0) await sink.write(keyOrder.sort(rows));
  };
  const lines = readLines(file, dataDir, (chunk) => {
    hash.update(chunk);
    bytes += chunk.byteLength;
  });
  let fault: DataFault | undefined;
  try {
    for await (const chunk of lines) {
      decodedBytes += chunk.byteLength;
      const rows = scanner.scan(chunk);
      target.checkLimits(decodedBytes, scanner.counts.rows);
      await send(rows);
      target.onProgress(bytes, scanner.counts.rows);
    }
    await send(scanner.finish());
    fault = compareWithManifest(file, { bytes, lines: scanner.counts.lines, sha256: hash.digest('hex') });
  } catch (error) {
    if (error instanceof DataFault)
      return { bytes, decodedBytes, rows: scanner.counts.rows, fault: error, isOverLimit: true };
    if (!(error instanceof CompressionFault)) throw error;
    fault = (await compareBytes(file, dataDir)) ?? compressionFault(file, error);
  }
  return { bytes, decodedBytes, rows: scanner.counts.rows, fault, isOverLimit: false };
}

interface Content {
  readonly bytes: number;
  /** null: not known, as the file cannot be expanded. */
  readonly lines: number | null;
  readonly sha256: string;
}

function compareWithManifest(file: ClaimedFile, { bytes, lines, sha256 }: Content): DataFault | undefined {
  const differences = [
    bytes === file.bytes ? '' : `${bytes} bytes instead of ${file.bytes}`,
    file.sha256 === null || sha256 === file.sha256 ? '' : `sha256 ${sha256} instead of ${file.sha256}`,
    file.lines === null || lines === null || lines === file.lines
      ? ''
      : `${lines} lines instead of ${file.lines}`,
  ].filter((text) => text !== '');
  if (differences.length === 0) return undefined;
  return new DataFault({
    code: 'content_mismatch',
    detail: `What arrived of "${file.name}" is not what was declared: ${differences.join(', ')}. Push again: the file is sent anew.`,
    file: file.name,
  });
}

/** Whether a file that cannot be expanded is so at its source, or has become so on its way: by its bytes alone. */
async function compareBytes(file: ClaimedFile, dataDir: string): Promise<DataFault | undefined> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of readStored(file, dataDir)) {
    hash.update(chunk);
    bytes += chunk.byteLength;
  }
  return compareWithManifest(file, { bytes, lines: null, sha256: hash.digest('hex') });
}

function compressionFault(file: ClaimedFile, { code, message }: CompressionFault): DataFault {
  return new DataFault({ code, detail: `${file.name}: ${message}`, file: file.name });
}
