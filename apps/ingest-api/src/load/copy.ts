import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type FileHandle, open } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import type { ClientBase } from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import {
  COPY_COLUMNS,
  COPY_HEAD,
  COPY_TAIL,
  CompressionFault,
  compressionOf,
  createScoreLineScanner,
  expand,
  KeyOrder,
  ScoreProfile,
} from 'score-lines';
import type { RunLimits } from '../runs/models.ts';
import { seemsShort, uploadPath } from '../store/folder.ts';
import type { ClaimedFile, ClaimedRevision } from './attempts.ts';
import { contentFault, DataFault, RejectList } from './rejects.ts';

interface CopyResult {
  readonly bytes: number;
  /** The lines that were left out, as the contract allows. */
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
}

interface CopyOptions {
  readonly dataDir: string;
  readonly partition: string;
  /** This many bad lines are left out; with one more the revision fails. */
  readonly maxRejectedLines: number;
  readonly limits: RunLimits;
  /** Called often: the bytes read and the rows made so far. */
  onProgress(bytes: number, rows: number): void;
}

/**
 * COPYs every file of a revision into the fresh partition, in one statement, hashing what it reads. Proves on
 * the way that the bytes are those that were declared, and that no line is unaccounted for.
 *
 * Neither a bad line nor a bad file ends the reading: all of them are found. The COPY is then ended in order, so that the
 * transaction stays usable to record the failure in it.
 *
 * @throws {DataFault} more bad lines than are allowed, or content that is not what was declared, or cannot be
 *   expanded.
 * @throws {BytesLost} bytes are missing. After any other error the COPY is left open, and the connection must be ended:
 *   that ends it too.
 */
export async function copyFiles(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: CopyOptions,
): Promise<CopyResult> {
  await refuseIncomplete(claimed.files, options);
  const copy = client.query(
    copyFrom(`COPY ${options.partition} (${COPY_COLUMNS.join(', ')}) FROM STDIN (FORMAT binary, FREEZE)`),
  );
  const sink = new CopySink(copy);
  await sink.write(COPY_HEAD);
  const keyOrder = new KeyOrder();
  const rejects = new RejectList(options.maxRejectedLines);
  const scores = new ScoreProfile();
  const total = { bytes: 0, rows: 0, decodedBytes: 0 };
  const mismatches: Mismatch[] = [];
  let fault: DataFault | undefined;
  for (const file of claimed.files) {
    const isDoomed = fault !== undefined || mismatches.length > 0;
    const copied = await (isDoomed ? checkFile : copyFile)(file, {
      dataDir: options.dataDir,
      sink,
      keyOrder,
      rejects,
      scores,
      checkLimits: (decodedBytes, rows) =>
        checkLimits(options.limits, total.decodedBytes + decodedBytes, total.rows + rows, file.name),
      onProgress: (bytes, rows) => options.onProgress(total.bytes + bytes, total.rows + rows),
    });
    if (copied.mismatch !== undefined) mismatches.push(copied.mismatch);
    fault ??= copied.fault;
    total.bytes += copied.bytes;
    total.rows += copied.rows;
    total.decodedBytes += copied.decodedBytes;
  }
  await sink.write(COPY_TAIL);
  await sink.end();
  if (mismatches.length > 0) throw contentFault(mismatches);
  if (fault !== undefined) throw fault;
  if (rejects.isTooLong) throw rejects.toFault();
  if (copy.rowCount !== total.rows) {
    throw new Error(`PostgreSQL took ${copy.rowCount} rows of the ${total.rows} that were sent to it.`);
  }
  return { bytes: total.bytes, rejects, scores };
}

/** Before the first row is sent: when a file is missing, the others are only compared, and everything that is wrong is known. */
async function refuseIncomplete(
  files: readonly ClaimedFile[],
  { dataDir, onProgress }: CopyOptions,
): Promise<void> {
  if (!(await someAreMissing(files, dataDir))) return;
  const mismatches: Mismatch[] = [];
  let doneBytes = 0;
  for (const file of files) {
    const target = { dataDir, onProgress: (bytes: number) => onProgress(doneBytes + bytes, 0) };
    const mismatch = withoutUpload(file) ?? (await checkFile(file, target)).mismatch;
    if (mismatch !== undefined) mismatches.push(mismatch);
    doneBytes += file.bytes;
  }
  if (mismatches.length > 0) throw contentFault(mismatches);
}

async function someAreMissing(files: readonly ClaimedFile[], dataDir: string): Promise<boolean> {
  for (const file of files) {
    if (withoutUpload(file) !== undefined) return true;
    if (await seemsShort(dataDir, file.fileName, file.bytes)) return true;
  }
  return false;
}

/** Another load, or a request, has found it out before. */
function withoutUpload(file: ClaimedFile): Mismatch | undefined {
  if (file.isRemoved) return { file, found: 'it was removed', kind: 'wrong' };
  if (file.receivedAt === null) return { file, found: 'not received again yet', kind: 'short' };
  return undefined;
}

/** @throws {DataFault} when a run is larger than its model may be: a small compressed file may expand without end. */
function checkLimits(
  { maxBytes, maxRows }: RunLimits,
  decodedBytes: number,
  rows: number,
  file: string,
): void {
  if (decodedBytes <= maxBytes && rows <= maxRows) return;
  const found =
    decodedBytes > maxBytes
      ? `more than ${maxBytes} bytes of lines (decompressed), the largest that is allowed (maxBytes)`
      : `more than ${maxRows} rows, the most that is allowed (maxRows)`;
  throw new DataFault({
    code: 'too_large',
    detail: `The run has ${found}; the limit was passed in "${file}". Send less, or have the limit raised: ingest-api model set MODEL --max-bytes N --max-rows N.`,
    file,
  });
}

interface ReadTarget {
  readonly dataDir: string;
  /** The bytes of the file that were read, and the rows that came of them so far. */
  onProgress(bytes: number, rows: number): void;
}

interface CopyTarget extends ReadTarget {
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

interface CopiedFile {
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
async function copyFile(file: ClaimedFile, target: CopyTarget): Promise<CopiedFile> {
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
async function checkFile(file: ClaimedFile, target: ReadTarget): Promise<CopiedFile> {
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

const CHUNK_BYTES = 1024 * 1024;

/**
 * The lines of a file, expanded if its name says that it is compressed, in chunks that are the caller's until it asks
 * for the next one. `onRead` is called with what is read from the disk.
 */
export function readLines(
  file: ClaimedFile,
  dataDir: string,
  onRead: (stored: Buffer) => void = () => {},
): AsyncIterable<Buffer> {
  const stored = tell(readStored(file, dataDir), onRead);
  const compression = compressionOf(file.name);
  return compression === undefined ? stored : expand(stored, compression, file.bytes);
}

/**
 * The bytes of a file as they were received, in chunks of 1 MiB, the next one being read while the caller works on this
 * one. Two buffers take turns: a chunk is the caller's until it asks for the next one.
 */
async function* readStored({ bytes, fileName }: ClaimedFile, dataDir: string): AsyncGenerator<Buffer> {
  if (bytes === 0) return; // nothing was ever sent for an empty file, so there is none on the disk
  const file = await open(uploadPath(dataDir, fileName), 'r');
  try {
    const buffers: [Buffer, Buffer] = [
      Buffer.allocUnsafeSlow(CHUNK_BYTES),
      Buffer.allocUnsafeSlow(CHUNK_BYTES),
    ];
    let turn: 0 | 1 = 0;
    let reading = readInto(file, buffers[turn]);
    for (;;) {
      const chunk = await reading;
      if (chunk.byteLength === 0) return;
      turn = turn === 0 ? 1 : 0;
      reading = readInto(file, buffers[turn]);
      reading.catch(() => {}); // awaited in the next turn
      yield chunk;
    }
  } finally {
    await file.close();
  }
}

async function readInto(file: FileHandle, buffer: Buffer): Promise<Buffer> {
  const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, null);
  return buffer.subarray(0, bytesRead);
}

async function* tell(chunks: AsyncIterable<Buffer>, onRead: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    onRead(chunk);
    yield chunk;
  }
}

/** Writes to a COPY with one piece on its way while the next one is made. */
class CopySink {
  readonly #copy: Writable;
  readonly #failed: Promise<never>;
  #error: Error | undefined;
  #writable: Promise<unknown> = Promise.resolve();

  constructor(copy: Writable) {
    this.#copy = copy;
    this.#failed = once(copy, 'error').then(([error]) => Promise.reject(error));
    this.#failed.catch(() => {}); // heard by whichever write or end comes next
    copy.on('error', (error) => {
      this.#error ??= error; // a lost connection tells twice
    });
  }

  async write(rows: Buffer): Promise<void> {
    await Promise.race([this.#writable, this.#failed]);
    // After PostgreSQL has ended the COPY, pg-copy-streams can only say that its connection is null.
    if (this.#error !== undefined) throw this.#error;
    this.#writable = new Promise<void>((resolve, reject) => {
      this.#copy.write(rows, (error) => (error ? reject(error) : resolve()));
    });
    this.#writable.catch(() => {});
  }

  /** Resolves when PostgreSQL has taken every row. */
  async end(): Promise<void> {
    const finished = once(this.#copy, 'finish');
    this.#copy.end();
    await Promise.race([finished, this.#failed]);
  }
}
