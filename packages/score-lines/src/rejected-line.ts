/** Why a line was refused. README.md says for each what it means and what to do about it. */
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
  | 'too_deep'
  | 'number_out_of_range';

/** A line that gave no row: where it is, what is wrong with it, and how it looks. */
export interface RejectedLine {
  /** 1-based, within the file. */
  readonly line: number;
  /**
   * 0-based, within the file: of the byte where the fault stands; of the line's first byte when the line as
   * a whole is at fault; the file's size when the file ends too early (`cut_off`).
   */
  readonly byteOffset: number;
  readonly code: RejectCode;
  /** A full sentence: what is wrong, and what to do where that is not plain. */
  readonly detail: string;
  /**
   * The beginning of the line, at most 200 characters. Control and invisible characters, NUL included, are
   * shown as escapes (`\t`, `\x00`, `\u{200b}`), bytes that are no UTF-8 as `\xff`.
   */
  readonly excerpt: string;
}
