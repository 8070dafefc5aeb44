import type { RejectTotals, RevisionError } from 'db-schema';
import type { RejectCode, RejectedLine } from 'score-lines';

/** A line that is not loaded: refused by itself, or because its key stands elsewhere too. */
export interface FileReject extends Omit<RejectedLine, 'code'> {
  readonly file: string;
  readonly code: RejectCode | 'duplicate_key';
}

/**
 * The data is at fault: the same bytes would fail again. Carries what is to be told on the run. Everything
 * else that is thrown during a load is a fault of the machinery, and is tried again.
 */
export class DataFault extends Error {
  override readonly name = 'DataFault';
  readonly error: RevisionError;
  readonly rejects: RejectTotals;
  readonly rejectedLines: readonly FileReject[];

  constructor(
    error: RevisionError,
    rejects: RejectTotals = { total: 0, byCode: {} },
    rejectedLines: readonly FileReject[] = [],
  ) {
    super(error.detail);
    this.error = error;
    this.rejects = rejects;
    this.rejectedLines = rejectedLines;
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
