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

const BEGINNING_BYTES = 800;
const JSON_LINES = "in pandas df.to_json(path, orient='records', lines=True)";

/** The first bytes of other formats. */
const MAGIC: ReadonlyArray<{ bytes: readonly number[]; cause: string }> = [
  { bytes: [0x1f, 0x8b], cause: 'The file is compressed with gzip: name it *.jsonl.gz.' },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], cause: 'The file is compressed with zstd: name it *.jsonl.zst.' },
  {
    bytes: [0x42, 0x5a, 0x68],
    cause: 'The file is compressed with bzip2: decompress it, or compress it with gzip or zstd.',
  },
  {
    bytes: [0xfd, 0x37, 0x7a, 0x58],
    cause: 'The file is compressed with xz: decompress it, or compress it with gzip or zstd.',
  },
  { bytes: [0x50, 0x4b, 0x03, 0x04], cause: 'The file is a ZIP archive: extract it.' },
  { bytes: [0x50, 0x41, 0x52, 0x31], cause: 'The file is Parquet: write JSON Lines.' },
];

/**
 * What format a file has that is not JSON Lines, and what to do, as far as its first line shows it; null when
 * it does not.
 */
export function likelyCause(bytes: Uint8Array, start: number, end: number): string | null {
  const known = MAGIC.find(({ bytes: magic }) => magic.every((byte, index) => bytes[start + index] === byte));
  if (known) return known.cause;
  if (isWide(bytes, start, end)) {
    return 'The file is UTF-16 or UTF-32: write it as UTF-8, or convert it with iconv -f UTF-16 -t UTF-8 FILE.';
  }
  const line = Buffer.from(bytes.buffer, bytes.byteOffset + start, Math.min(end - start, BEGINNING_BYTES))
    .toString('latin1')
    .trim();
  if (/^\[\s*(\{|$)/.test(line)) {
    return `The file is a JSON array: write one object per line (${JSON_LINES}), or convert it with jq -c '.[]' FILE.`;
  }
  if (line === '{') {
    return `The file is pretty-printed: write each object on one line (${JSON_LINES}), or convert it with jq -c . FILE.`;
  }
  if (/^\{[^\n]*\}\r\s*\{/.test(line)) {
    return "The line ends are CR without LF: write LF, or convert them with tr '\\r' '\\n'.";
  }
  if (/^["\w .-]+([,;\t|]["\w .+-]*)+$/.test(line))
    return `The file is CSV: write JSON Lines (${JSON_LINES}).`;
  return null;
}

/** ASCII in two or four bytes per character: every second byte at the beginning is zero. */
function isWide(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < 4) return false;
  const zeros = [0, 1, 2, 3].map((index) => bytes[start + index] === 0);
  return (zeros[0] !== zeros[1] && zeros[2] !== zeros[3]) || (zeros[1] === true && zeros[2] === true);
}
