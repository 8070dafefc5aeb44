/** Why a line is refused. README.md says for each code what it means and what to do. */
export type RejectCode =
  | 'byte_order_mark'
  | 'invalid_utf8'
  | 'nul'
  | 'lone_surrogate'
  | 'line_too_long'
  | 'cut_off'
  | 'invalid_json'
  | 'not_an_object'
  | 'missing_pk'
  | 'invalid_pk'
  | 'pk_too_long'
  | 'duplicate_pk_key'
  | 'missing_score'
  | 'invalid_score'
  | 'duplicate_score_key'
  | 'duplicate_attribute'
  | 'missing_attribute'
  | 'invalid_attribute'
  | 'too_deep'
  | 'number_out_of_range';

/** A line that produced no row: where it is, what is wrong with it, and how it begins. */
export interface RejectedLine {
  /** 1-based, within the file. */
  readonly line: number;
  /**
   * 0-based, within the file: of the byte that is wrong; of the line's first byte when the line as a whole is
   * wrong; the file's size when the file ends too early (`cut_off`).
   */
  readonly byteOffset: number;
  readonly code: RejectCode;
  /** Full sentences: what is wrong, what was found, and what to do unless that is obvious. */
  readonly detail: string;
  /**
   * The beginning of the line, at most 200 characters. Control and invisible characters, NUL included, are
   * shown as escapes (`\t`, `\x00`, `\u{200b}`), bytes that are not UTF-8 as `\xff`.
   */
  readonly excerpt: string;
}

/**
 * Thrown for a line that gives no row; the scanner catches it. Not an `Error`: stack traces for a million bad
 * lines would take longer than reading the lines.
 */
export class LineFault {
  readonly code: RejectCode;
  /** Index of the wrong byte in the buffer that is being read. */
  readonly at: number;
  readonly detail: string;
  /** The line ends where more is expected; at the end of the file this means `cut_off`. */
  readonly endsEarly: boolean;

  constructor(code: RejectCode, at: number, detail: string, endsEarly = false) {
    this.code = code;
    this.at = at;
    this.detail = detail;
    this.endsEarly = endsEarly;
  }
}
