import { createHash } from 'node:crypto';
import { once } from 'node:events';
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
import type { Contract } from 'wire';
import type { RunLimits } from '../runs/models.ts';
import { BytesMissing, type Store } from '../store/store.ts';
import type { ClaimedFile, ClaimedRevision } from './attempts.ts';
import { contentFault, DataFault, type Mismatch, RejectList } from './faults.ts';

interface CopyOptions {
  readonly store: Store;
  readonly partition: string;
  /** This many bad lines are left out; with one more the revision fails. */
  readonly maxRejectedLines: number;
  readonly limits: RunLimits;
  /** That the contract declares. */
  readonly attributes: Contract['attributes'];
  /** Called often: the bytes read and the rows made so far. */
  onProgress(bytes: number, rows: number): void;
}

interface CopyResult {
  readonly bytes: number;
  /** The lines that were left out, as the contract allows. */
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
}

/**
 * COPYs every file of a revision into the new partition, in one statement, and hashes what it reads. That
 * proves that the bytes are those that were declared, and that every line is counted.
 *
 * Neither a bad line nor a bad file stops the reading, so that all faults are found. The COPY is then ended
 * in order, so that the transaction stays usable to record the failure in it.
 *
 * @throws {DataFault} more bad lines than are allowed, or content that differs from the declaration, is too
 *   large, or cannot be expanded.
 * @throws {BytesLost} bytes are missing. After any other error the COPY is left open, and the caller must end
 *   the connection, which also ends the COPY.
 */
export async function copyFiles(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: CopyOptions,
): Promise<CopyResult> {
  // Before the first row is sent: when a file is missing, the others are only compared, so that all mismatches are known.
  const areMissing = await someAreMissing(claimed.files, options.store);
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
    const willFail = areMissing || fault !== undefined || mismatches.length > 0;
    const copied = await (willFail ? compareFile : copyFile)(file, {
      store: options.store,
      sink,
      keyOrder,
      rejects,
      scores,
      attributes: options.attributes,
      requireWithinLimits: (decodedBytes, rows) =>
        requireWithinLimits(options.limits, total.decodedBytes + decodedBytes, total.rows + rows, file.name),
      onProgress: (bytes, rows) => options.onProgress(total.bytes + bytes, total.rows + rows),
    });
    if (copied.mismatch !== undefined) mismatches.push(copied.mismatch);
    fault ??= copied.fault;
    total.bytes += file.bytes; // also bytes that are missing: a load that looks for a thousand lost objects moves
    total.rows += copied.rows;
    total.decodedBytes += copied.decodedBytes;
    options.onProgress(total.bytes, total.rows);
  }
  await sink.write(COPY_TAIL);
  await sink.end();
  if (mismatches.length > 0) throw contentFault(mismatches);
  if (areMissing) throw new Error('Bytes that were missing when the load began are there now.');
  if (fault !== undefined) throw fault;
  if (rejects.isTooLong) throw rejects.toFault();
  if (copy.rowCount !== total.rows) {
    throw new Error(`PostgreSQL stored ${copy.rowCount} of the ${total.rows} rows that it received.`);
  }
  return { bytes: total.bytes, rejects, scores };
}

async function someAreMissing(files: readonly ClaimedFile[], store: Store): Promise<boolean> {
  for (const file of files) {
    if (recordedLoss(file) !== undefined) return true;
    if ((await store.maybeShort([{ ...file, offsetBytes: file.bytes }])).length > 0) return true;
  }
  return false;
}

/** A loss that another load, or a request, has found and recorded. */
function recordedLoss(file: ClaimedFile): Mismatch | undefined {
  if (file.isRemoved) return { file, found: 'the service has removed it', kind: 'wrong' };
  if (file.receivedAt === null)
    return { file, found: 'some bytes are not received again yet', kind: 'short' };
  return undefined;
}

/** @throws {DataFault} A small compressed file may expand without end, so this is asked with every chunk. */
function requireWithinLimits(
  { maxBytes, maxRows }: RunLimits,
  decodedBytes: number,
  rows: number,
  file: string,
): void {
  if (decodedBytes <= maxBytes && rows <= maxRows) return;
  const found =
    decodedBytes > maxBytes
      ? `more than ${maxBytes} bytes of lines, decompressed (maxBytes)`
      : `more than ${maxRows} rows (maxRows)`;
  throw new DataFault({
    code: 'too_large',
    detail: `The run is too large: with "${file}" it has ${found}. Send less, or ask the operators to raise the limit: ingest-api model set MODEL --max-bytes N --max-rows N.`,
    file,
  });
}

interface CompareTarget {
  readonly store: Store;
  /** The bytes of the file that were read, and the rows made from them, so far. */
  onProgress(bytes: number, rows: number): void;
}

interface CopyTarget extends CompareTarget {
  readonly sink: CopySink;
  readonly keyOrder: KeyOrder;
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
  readonly attributes: Contract['attributes'];
  /** Throws a DataFault when the run is too large with these bytes of lines and rows of this file. */
  requireWithinLimits(decodedBytes: number, rows: number): void;
}

interface CopiedFile {
  /** As the file was received, compressed or not. */
  readonly bytes: number;
  /** Of lines, decompressed. */
  readonly decodedBytes: number;
  readonly rows: number;
  readonly mismatch?: Mismatch | undefined;
  /** The file is the one that was declared, but it cannot be expanded, or is too large. */
  readonly fault?: DataFault | undefined;
}

/** Sends the rows of one file to the COPY, and proves that the file is the one that was declared. */
async function copyFile(file: ClaimedFile, target: CopyTarget): Promise<CopiedFile> {
  const { store, sink, keyOrder, rejects, scores, attributes } = target;
  const hash = createHash('sha256');
  let bytes = 0;
  let decodedBytes = 0;
  const scanner = createScoreLineScanner({
    onReject: (rejected) => rejects.add(file.name, rejected),
    profile: scores,
    attributes,
  });
  const send = async (rows: Buffer) => {
    // Rows that will never be published are not sent.
    if (!rejects.isTooLong && rows.byteLength > 0) await sink.write(keyOrder.sort(rows));
  };
  const lines = readLines(file, store, (chunk) => {
    hash.update(chunk);
    bytes += chunk.byteLength;
  });
  try {
    for await (const chunk of lines) {
      decodedBytes += chunk.byteLength;
      const rows = scanner.scan(chunk);
      target.requireWithinLimits(decodedBytes, scanner.counts.rows);
      await send(rows);
      target.onProgress(bytes, scanner.counts.rows);
    }
    await send(scanner.finish());
  } catch (error) {
    const fault = error instanceof CompressionFault ? compressionFault(file, error) : error;
    if (!(fault instanceof DataFault) && !(error instanceof BytesMissing)) throw error;
    // The file may have been like that at its source, or have changed since: its bytes decide.
    const compared = await compareFile(file, target);
    if (compared.mismatch !== undefined) return compared;
    if (!(fault instanceof DataFault)) throw error;
    return { bytes, decodedBytes, rows: scanner.counts.rows, fault };
  }
  const { rows, lines: lineCount } = scanner.counts;
  return {
    bytes,
    decodedBytes,
    rows,
    mismatch: mismatchOf(file, { bytes, lines: lineCount, sha256: hash.digest('hex') }),
  };
}

function compressionFault(file: ClaimedFile, { code, message }: CompressionFault): DataFault {
  return new DataFault({ code, detail: `${file.name}: ${message}`, file: file.name });
}

/**
 * Compares only the bytes of a file, for a load that cannot succeed any more: one load finds everything that
 * is wrong.
 */
async function compareFile(file: ClaimedFile, { store, onProgress }: CompareTarget): Promise<CopiedFile> {
  const loss = recordedLoss(file);
  if (loss !== undefined) return { bytes: 0, decodedBytes: 0, rows: 0, mismatch: loss };
  const hash = createHash('sha256');
  let bytes = 0;
  const onRead = (chunk: Buffer) => {
    hash.update(chunk);
    bytes += chunk.byteLength;
    onProgress(bytes, 0);
  };
  try {
    for await (const _ of readStored(file, store, onRead));
  } catch (error) {
    if (!(error instanceof BytesMissing)) throw error;
  }
  const mismatch = mismatchOf(file, { bytes, lines: null, sha256: hash.digest('hex') });
  return { bytes, decodedBytes: 0, rows: 0, mismatch };
}

interface Content {
  readonly bytes: number;
  /** null: not counted. */
  readonly lines: number | null;
  readonly sha256: string;
}

/** How what was found differs from what was declared; undefined when it does not. */
function mismatchOf(file: ClaimedFile, { bytes, lines, sha256 }: Content): Mismatch | undefined {
  if (bytes < file.bytes)
    return { file, found: `${bytes} bytes instead of ${file.bytes}`, kind: 'short', bytesLeft: bytes };
  const differences: string[] = [];
  if (bytes !== file.bytes) differences.push(`${bytes} bytes instead of ${file.bytes}`);
  if (file.sha256 !== null && sha256 !== file.sha256)
    differences.push(`sha256 ${sha256} instead of ${file.sha256}`);
  const kind = differences.length > 0 ? 'wrong' : 'lines';
  if (file.lines !== null && lines !== null && lines !== file.lines)
    differences.push(`${lines} lines instead of ${file.lines}`);
  if (differences.length === 0) return undefined;
  return { file, found: differences.join(', '), kind, ...(kind === 'wrong' && { bytesLeft: 0 }) };
}

/**
 * The lines of a file, expanded if its name says that it is compressed, in chunks that are the caller's until
 * it asks for the next one. `onRead` receives what is read from the store.
 */
export function readLines(
  file: ClaimedFile,
  store: Store,
  onRead: (stored: Buffer) => void = () => {},
): AsyncIterable<Buffer> {
  const stored = readStored(file, store, onRead);
  const compression = compressionOf(file.name);
  return compression === undefined ? stored : expand(stored, compression, file.bytes);
}

/** The bytes of a file as they were received. Nothing is ever sent of an empty file, so the store has nothing of it. */
async function* readStored(
  file: ClaimedFile,
  store: Store,
  onRead: (chunk: Buffer) => void,
): AsyncGenerator<Buffer> {
  if (file.bytes === 0) return;
  for await (const chunk of store.read(file)) {
    onRead(chunk);
    yield chunk;
  }
}

/** Writes to a COPY: the next piece is made while the one before is being sent. */
class CopySink {
  readonly #copy: Writable;
  readonly #failed: Promise<never>;
  #error: Error | undefined;
  #writable: Promise<unknown> = Promise.resolve();

  constructor(copy: Writable) {
    this.#copy = copy;
    this.#failed = once(copy, 'error').then(([error]) => Promise.reject(error));
    this.#failed.catch(() => {}); // the next write or end throws it
    copy.on('error', (error) => {
      this.#error ??= error; // a lost connection raises two; the first one says why
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

  /** Resolves when PostgreSQL has received every row. */
  async end(): Promise<void> {
    const finished = once(this.#copy, 'finish');
    this.#copy.end();
    await Promise.race([finished, this.#failed]);
  }
}
