import type { ClientBase } from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL, KeyOrder, ScoreProfile } from 'score-lines';
import type { RunLimits } from '../runs/contract.ts';
import { seemsShort } from '../store/upload-files.ts';
import type { ClaimedFile, ClaimedRevision } from './claim-next-load.ts';
import { checkFile, copyFile, type Mismatch } from './copy-file.ts';
import { CopySink } from './copy-sink.ts';
import { contentFault, DataFault } from './data-fault.ts';
import { RejectList } from './reject-list.ts';

export interface CopyResult {
  readonly bytes: number;
  /** The lines that were left out, as the contract allows. */
  readonly rejects: RejectList;
  readonly scores: ScoreProfile;
}

export interface CopyOptions {
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
