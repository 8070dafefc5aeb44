import type { RejectTotals, RevisionError } from 'db-schema';
import { printableLines, type RejectCode, type RejectedLine } from 'score-lines';
import type { Suspect } from '../runs/lost-bytes.ts';
import type { Mismatch } from './copy-file.ts';

/** A line that is not loaded: refused by itself, or because its key occurs elsewhere too. */
export interface FileReject extends Omit<RejectedLine, 'code'> {
  readonly file: string;
  readonly code: RejectCode | 'duplicate_key';
}

/**
 * The data is at fault: the same bytes would fail again. Carries what the run says of it. Everything else that is thrown
 * during a load, but for `BytesLost`, is a fault of the machinery, and is tried again.
 */
export class DataFault extends Error {
  override readonly name = 'DataFault';
  readonly error: RevisionError;
  readonly rejects: RejectTotals;
  readonly rejectedLines: readonly FileReject[];
  /** Uploads that must be sent again. */
  readonly suspects: readonly Suspect[];

  constructor(
    error: RevisionError,
    rejects: RejectTotals = { total: 0, byCode: {} },
    rejectedLines: readonly FileReject[] = [],
    suspects: readonly Suspect[] = [],
  ) {
    super(printableLines(error.detail));
    this.error = { ...error, detail: this.message };
    this.rejects = rejects;
    this.rejectedLines = rejectedLines;
    this.suspects = suspects;
  }

  /** The same fault, telling also of the lines that the model's contract had allowed to leave out. */
  beside(allowed: { readonly totals: RejectTotals; readonly kept: readonly FileReject[] }): DataFault {
    const totals = {
      total: allowed.totals.total + this.rejects.total,
      byCode: { ...allowed.totals.byCode, ...this.rejects.byCode },
    };
    return new DataFault(this.error, totals, [...allowed.kept, ...this.rejectedLines]);
  }
}

/** Bytes that were received are not on the disk any more: the run is not at fault, and waits for them again. */
export class BytesLost extends Error {
  override readonly name = 'BytesLost';
  readonly suspects: readonly Suspect[];

  constructor(short: readonly Mismatch[]) {
    super(
      `Bytes that the service had received are not on its disk any more: ${named(short)}. Push the run again: the rest is sent.`,
    );
    this.suspects = short.map(suspectOf);
  }
}

/** What all mismatches of a run come to: bytes that are missing can still come, others make the run fail. */
export function contentFault(mismatches: readonly Mismatch[]): DataFault | BytesLost {
  const [first] = mismatches;
  if (first === undefined) throw new Error('There is no mismatch to report.');
  if (mismatches.every(({ kind }) => kind === 'short')) return new BytesLost(mismatches);
  const files = mismatches.length === 1 ? '1 file' : `${mismatches.length} files`;
  return new DataFault(
    {
      code: 'content_mismatch',
      detail: `What arrived of ${files} is not what was declared: ${named(mismatches)}. Push again: what is wrong is sent anew, and nothing else.`,
      file: first.file.name,
    },
    undefined,
    undefined,
    mismatches.filter(({ kind }) => kind !== 'lines').map(suspectOf),
  );
}

const NAMED_FILES = 10;

function named(mismatches: readonly Mismatch[]): string {
  const names = mismatches.slice(0, NAMED_FILES).map(({ file, found }) => `"${file.name}" (${found})`);
  const more = mismatches.length - names.length;
  return names.join(', ') + (more > 0 ? ` and ${more} more` : '');
}

function suspectOf({ file, kind }: Mismatch): Suspect {
  const { uploadId, receivedAt } = file;
  return kind === 'wrong' && receivedAt !== null ? { uploadId, wrongSince: receivedAt } : { uploadId };
}
