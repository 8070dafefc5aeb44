import { createHash } from 'node:crypto';
import { CompressionFault, createScoreLineScanner, type KeyOrder, type ScoreProfile } from 'score-lines';
import type { ClaimedFile } from './claim-next-load.ts';
import type { CopySink } from './copy-sink.ts';
import { DataFault } from './data-fault.ts';
import { readLines, readStored } from './read-lines.ts';
import type { RejectList } from './reject-list.ts';

export interface ReadTarget {
  readonly dataDir: string;
  /** The bytes of the file that were read, and the rows that came of them so far. */
  onProgress(bytes: number, rows: number): void;
}

export interface CopyTarget extends ReadTarget {
  readonly sink: CopySink;
  readonly keyOrder: KeyOrder;
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
  /** Throws a DataFault when the run is too large with these bytes of lines and rows of this file. */
  checkLimits(decodedBytes: number, rows: number): void;
}

/** What is on the disk is not what was declared. */
export interface Mismatch {
  readonly file: ClaimedFile;
  /** `100 bytes instead of 200`. */
  readonly found: string;
  /**
   * `short`: the rest of it is lost, and to be sent again. `wrong`: all of it is to be sent again. `lines`: it is what was
   * sent, but has another number of lines than was declared.
   */
  readonly kind: 'short' | 'wrong' | 'lines';
}

export interface CopiedFile {
  /** As the file is on the disk, compressed or not. */
  readonly bytes: number;
  /** Of lines, decompressed. */
  readonly decodedBytes: number;
  readonly rows: number;
  readonly mismatch?: Mismatch | undefined;
  /** It cannot be expanded, or is too large, though it is what was sent. */
  readonly fault?: DataFault | undefined;
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
  try {
    for await (const chunk of lines) {
      decodedBytes += chunk.byteLength;
      const rows = scanner.scan(chunk);
      target.checkLimits(decodedBytes, scanner.counts.rows);
      await send(rows);
      target.onProgress(bytes, scanner.counts.rows);
    }
    await send(scanner.finish());
  } catch (error) {
    const fault = error instanceof CompressionFault ? compressionFault(file, error) : error;
    if (!(fault instanceof DataFault) && !isMissing(error)) throw error;
    // A file that is at fault is so at its source, or has become so on its way: its bytes tell.
    const checked = await checkFile(file, target);
    if (checked.mismatch !== undefined) return checked;
    if (!(fault instanceof DataFault)) throw error;
    return { bytes, decodedBytes, rows: scanner.counts.rows, fault };
  }
  const { rows, lines: lineCount } = scanner.counts;
  return {
    bytes,
    decodedBytes,
    rows,
    mismatch: compareWithManifest(file, { bytes, lines: lineCount, sha256: hash.digest('hex') }),
  };
}

/** Compares only the bytes of a file, for a load that cannot succeed any more: all that is wrong is found in one load. */
export async function checkFile(file: ClaimedFile, target: ReadTarget): Promise<CopiedFile> {
  const hash = createHash('sha256');
  let bytes = 0;
  try {
    for await (const chunk of readStored(file, target.dataDir)) {
      hash.update(chunk);
      bytes += chunk.byteLength;
      target.onProgress(bytes, 0);
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const mismatch = compareWithManifest(file, { bytes, lines: null, sha256: hash.digest('hex') });
  return { bytes, decodedBytes: 0, rows: 0, mismatch };
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}

interface Content {
  readonly bytes: number;
  /** null: not counted. */
  readonly lines: number | null;
  readonly sha256: string;
}

function compareWithManifest(file: ClaimedFile, { bytes, lines, sha256 }: Content): Mismatch | undefined {
  if (bytes < file.bytes) return { file, found: `${bytes} bytes instead of ${file.bytes}`, kind: 'short' };
  const isWrong = bytes !== file.bytes || (file.sha256 !== null && sha256 !== file.sha256);
  const differences = [
    bytes === file.bytes ? '' : `${bytes} bytes instead of ${file.bytes}`,
    file.sha256 === null || sha256 === file.sha256 ? '' : `sha256 ${sha256} instead of ${file.sha256}`,
    file.lines === null || lines === null || lines === file.lines
      ? ''
      : `${lines} lines instead of ${file.lines}`,
  ].filter((text) => text !== '');
  if (differences.length === 0) return undefined;
  return { file, found: differences.join(', '), kind: isWrong ? 'wrong' : 'lines' };
}

function compressionFault(file: ClaimedFile, { code, message }: CompressionFault): DataFault {
  return new DataFault({ code, detail: `${file.name}: ${message}`, file: file.name });
}
