import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import type { ClientBase } from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL, createScoreLineScanner, ScoreProfile } from 'score-lines';
import type { ClaimedFile, ClaimedRevision } from './claim-next-load.ts';
import { DataFault } from './data-fault.ts';
import { readLines } from './read-lines.ts';
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
  /** So many bad lines are left out; with one more the revision fails. */
  readonly maxRejectedLines: number;
  /** Called often: the bytes read and the rows made so far. */
  onProgress(bytes: number, rows: number): void;
}

/**
 * COPYs every file of a revision into the fresh partition, in one statement, hashing what it reads. Proves on
 * the way that the bytes are those that were declared, and that no line is unaccounted for.
 *
 * A bad line does not end the reading: all of them are found. The COPY is then ended in order, so that the
 * transaction stays usable to record the failure in it.
 *
 * @throws {DataFault} more bad lines than are allowed, or content that is not what was declared. After any other error the COPY is
 *   left open, and the connection must be ended: that ends it too.
 */
export async function copyFiles(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: CopyOptions,
): Promise<CopyResult> {
  const copy = client.query(
    copyFrom(`COPY ${options.partition} (${COPY_COLUMNS.join(', ')}) FROM STDIN (FORMAT binary, FREEZE)`),
  );
  const sink = new CopySink(copy);
  await sink.write(COPY_HEAD);
  const rejects = new RejectList(options.maxRejectedLines);
  const scores = new ScoreProfile();
  const total = { bytes: 0, rows: 0 };
  let mismatch: DataFault | undefined;
  for (const file of claimed.files) {
    const counts = await copyFile(file, sink, { rejects, scores }, options, total);
    mismatch ??= compareWithManifest(file, counts);
    total.bytes += counts.bytes;
    total.rows += counts.rows;
  }
  await sink.write(COPY_TAIL);
  await sink.end();
  if (mismatch !== undefined) throw mismatch;
  if (rejects.isTooLong) throw rejects.toFault();
  if (copy.rowCount !== total.rows) {
    throw new Error(`PostgreSQL took ${copy.rowCount} rows of the ${total.rows} that were sent to it.`);
  }
  return { bytes: total.bytes, rejects, scores };
}

interface FileCounts {
  readonly bytes: number;
  readonly lines: number;
  readonly rows: number;
  readonly sha256: string;
}

async function copyFile(
  file: ClaimedFile,
  sink: CopySink,
  { rejects, scores }: Omit<CopyResult, 'bytes'>,
  options: CopyOptions,
  before: { readonly bytes: number; readonly rows: number },
): Promise<FileCounts> {
  const hash = createHash('sha256');
  const scanner = createScoreLineScanner({
    onReject: (rejected) => rejects.add(file.name, rejected),
    profile: scores,
  });
  const send = async (rows: Buffer) => {
    // Rows that will never be published are not sent.
    if (!rejects.isTooLong && rows.byteLength > 0) await sink.write(rows);
  };
  for await (const chunk of readLines(file, options.dataDir)) {
    hash.update(chunk);
    await send(scanner.scan(chunk));
    options.onProgress(before.bytes + scanner.counts.bytes, before.rows + scanner.counts.rows);
  }
  await send(scanner.finish());
  return { ...scanner.counts, sha256: hash.digest('hex') };
}

function compareWithManifest(file: ClaimedFile, counts: FileCounts): DataFault | undefined {
  const differences = [
    counts.bytes === file.bytes ? '' : `${counts.bytes} bytes instead of ${file.bytes}`,
    file.sha256 === null || counts.sha256 === file.sha256
      ? ''
      : `sha256 ${counts.sha256} instead of ${file.sha256}`,
    file.lines === null || counts.lines === file.lines
      ? ''
      : `${counts.lines} lines instead of ${file.lines}`,
  ].filter((text) => text !== '');
  if (differences.length === 0) return undefined;
  return new DataFault({
    code: 'content_mismatch',
    detail: `What arrived of "${file.name}" is not what was declared: ${differences.join(', ')}. Push again: the file is sent anew.`,
    file: file.name,
  });
}

/** Writes to the COPY with one piece on its way while the next one is made. */
class CopySink {
  readonly #copy: Writable;
  readonly #failed: Promise<never>;
  #writable: Promise<unknown> = Promise.resolve();

  constructor(copy: Writable) {
    this.#copy = copy;
    this.#failed = once(copy, 'error').then(([error]) => Promise.reject(error));
    this.#failed.catch(() => {}); // heard by whichever write or end comes next
    copy.on('error', () => {}); // a lost connection tells twice
  }

  async write(rows: Buffer): Promise<void> {
    await Promise.race([this.#writable, this.#failed]);
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
