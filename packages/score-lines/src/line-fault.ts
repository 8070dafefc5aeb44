import type { RejectCode } from './rejected-line.ts';

/**
 * Thrown when a line cannot be taken, caught by the scanner. Not an `Error`: a stack trace for each of a
 * million bad lines would cost more than reading them.
 */
export class LineFault {
  readonly code: RejectCode;
  /** Index of the byte at fault in the buffer that is being read. */
  readonly at: number;
  readonly detail: string;
  /** The line ends where it should go on; at the end of the file that means `cut_off`. */
  readonly endsEarly: boolean;

  constructor(code: RejectCode, at: number, detail: string, endsEarly = false) {
    this.code = code;
    this.at = at;
    this.detail = detail;
    this.endsEarly = endsEarly;
  }
}
