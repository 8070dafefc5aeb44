import type { RejectedLine } from './rejected-line.ts';

/** The columns of a row, in the order in which the scanner writes them. */
export const COPY_COLUMNS = ['score', 'pk', 'attributes'] as const;

/** What was seen so far; `lines` = `blank` + `rejected` + `rows`. */
export interface LineCounts {
  readonly bytes: number;
  readonly lines: number;
  readonly blank: number;
  readonly rejected: number;
  readonly rows: number;
}

export interface ScoreLineScanner {
  /** Scans the next bytes of the file; returns the COPY rows that they complete (may be empty), for the caller to keep. */
  scan(chunk: Uint8Array): Buffer;
  /** Ends the file: returns the row of a last line without newline, if there is one. */
  finish(): Buffer;
  readonly counts: LineCounts;
}

export interface ScoreLineScannerOptions {
  /** Called once for each refused line, in the order of the file. */
  onReject(rejected: RejectedLine): void;
  /** The longest line that is accepted, without its newline. 1 MiB when left out. */
  maxLineBytes?: number;
}

export function createScoreLineScanner(_options: ScoreLineScannerOptions): ScoreLineScanner {
  throw new Error('The scanner is not built yet; only its types are.');
}
