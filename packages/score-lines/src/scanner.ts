import type { Attribute } from 'wire';
import { AttributeSchema } from './attribute-schema.ts';
import { CopyRows } from './copy-rows.ts';
import { writeExactLine } from './exact-line.ts';
import { excerpt, NEWLINE } from './json-syntax.ts';
import { type KeySearch, keyOfRow } from './keys.ts';
import { likelyCause } from './likely-cause.ts';
import type { ScoreProfile } from './profile.ts';
import { LineFault, type RejectedLine } from './rejects.ts';
import { writeUsualLines } from './usual-lines.ts';

const MAX_LINE_BYTES_DEFAULT = 1024 * 1024;
/** jsonb stores strings of up to 256 MiB, V8 of up to 512 MiB. */
const MAX_LINE_BYTES_LIMIT = 256 * 1024 * 1024 - 1;
/** 200 characters of up to four bytes. */
const EXCERPT_BYTES = 800;

interface ScoreLineScannerOptions {
  /** Called once for each refused line, in the order of the file. An error that it throws ends the scan. */
  onReject(rejected: RejectedLine): void;
  /** The attributes that the model's contract declares. Without it, any attributes are accepted, and none is looked at. */
  attributes?: readonly Attribute[] | undefined;
  /** Reports the lines of certain keys. The scanner then reads line by line: several times slower. */
  find?: KeySearch;
  /**
   * Receives every score. One profile can be passed to the scanners of several files, one after the other.
   */
  profile?: ScoreProfile;
  /** The longest line that is accepted, without its newline: 1 MiB by default, at most 256 MiB. */
  maxLineBytes?: number;
}

/** Scans one file, once. Its memory is bounded by the largest chunk and the longest line, not by the file. */
interface ScoreLineScanner {
  /**
   * Scans the next bytes of the file, cut anywhere, and returns the rows that they complete (possibly none)
   * in a buffer that the caller owns. The scanner keeps no reference to the chunk.
   */
  scan(chunk: Uint8Array): Buffer;
  /** Ends the file. Returns the row of a last line without newline, if there is one. */
  finish(): Buffer;
  readonly counts: LineCounts;
}

/** The counts so far; `lines` = `blank` + `rejected` + `rows`. */
export interface LineCounts {
  readonly bytes: number;
  readonly lines: number;
  readonly blank: number;
  readonly rejected: number;
  readonly rows: number;
}

/**
 * Turns a file of JSON Lines into rows of PostgreSQL's COPY (FORMAT binary, columns as COPY_COLUMNS; the
 * caller sends COPY_HEAD before the first row and COPY_TAIL after the last), or says what is wrong with a
 * line and where. README.md says which lines are accepted.
 */
export function createScoreLineScanner(options: ScoreLineScannerOptions): ScoreLineScanner {
  const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES_DEFAULT;
  if (!Number.isSafeInteger(maxLineBytes) || maxLineBytes < 1 || maxLineBytes > MAX_LINE_BYTES_LIMIT) {
    throw new RangeError(
      `maxLineBytes must be a whole number from 1 to ${MAX_LINE_BYTES_LIMIT}, not ${maxLineBytes}.`,
    );
  }
  const schema = options.attributes && new AttributeSchema(options.attributes);
  // The fast path accepts lines without attributes only: none of them has a required one.
  const hasFastPath = schema === undefined || !schema.hasRequired;
  const rows = new CopyRows();
  const carry = new LineCarry();
  let carryFileOffset = 0;
  let bytesSeen = 0;
  let blank = 0;
  let rejected = 0;
  /** Why no line of this file gives a row. */
  let fileCause: string | null = null;
  let skipsToNewline = false;
  let finished = false;

  function refuseWhenFinished(): void {
    if (finished) throw new Error('The scanner has finished its file; create one scanner for each file.');
  }

  /** Scans the line that earlier chunks began, if `bytes` ends it, and returns where the next line begins. */
  function scanCarriedLine(bytes: Buffer): number {
    if (carry.length === 0 && !skipsToNewline) return 0;
    const end = bytes.indexOf(NEWLINE) + 1;
    if (end === 0) return 0;
    if (!skipsToNewline) {
      carry.append(bytes, 0, end);
      scanLines(carry.bytes, 0, carry.length, carryFileOffset);
      carry.clear();
    }
    skipsToNewline = false;
    return end;
  }

  /**
   * Scans whole lines: the byte before `end` is the newline of the last one. `fileOffset` is the offset of
   * `bytes` in the file; `isCut` means that the file ends without that newline.
   */
  function scanLines(bytes: Buffer, start: number, end: number, fileOffset: number, isCut = false): void {
    if (options.find !== undefined) {
      scanLinesForKeys(options.find, bytes, start, end, fileOffset, isCut);
      return;
    }
    let at = start;
    for (;;) {
      if (hasFastPath) at = writeUsualLines(bytes, at, end, rows, maxLineBytes);
      if (at === end) return;
      const lineEnd = bytes.indexOf(NEWLINE, at);
      scanExactLine(bytes, at, lineEnd, fileOffset, isCut);
      at = lineEnd + 1;
      if (at === end) return;
    }
  }

  /** Like `scanLines`, but line by line, to read the key of each row. */
  function scanLinesForKeys(
    search: KeySearch,
    bytes: Buffer,
    start: number,
    end: number,
    fileOffset: number,
    isCut: boolean,
  ): void {
    let lineEnd: number;
    for (let at = start; at < end; at = lineEnd + 1) {
      lineEnd = bytes.indexOf(NEWLINE, at);
      const rowStart = rows.length;
      const rowsBefore = rows.rowCount;
      if (!hasFastPath || writeUsualLines(bytes, at, lineEnd + 1, rows, maxLineBytes) === at) {
        scanExactLine(bytes, at, lineEnd, fileOffset, isCut);
      }
      if (rows.rowCount === rowsBefore) continue;
      const pk = keyOfRow(rows.bytes, rowStart);
      if (!search.keys.has(pk)) continue;
      const line = blank + rejected + rows.rowCount;
      search.onFound({ pk, line, byteOffset: fileOffset + at, excerpt: excerpt(bytes, at, lineEnd) });
    }
  }

  /** Scans one line that the fast path did not accept. */
  function scanExactLine(
    bytes: Buffer,
    start: number,
    end: number,
    fileOffset: number,
    isCut: boolean,
  ): void {
    if (end - start > maxLineBytes) {
      rejectTooLong(bytes, start, end, fileOffset);
      return;
    }
    rows.reserve(end + 1 - start);
    try {
      if (!writeExactLine(bytes, start, end, rows, schema)) blank++;
    } catch (thrown) {
      if (!(thrown instanceof LineFault)) throw thrown;
      reject(thrown.endsEarly && isCut ? cutOff(end) : thrown, bytes, start, end, fileOffset);
    }
  }

  function reject(fault: LineFault, bytes: Buffer, start: number, end: number, fileOffset: number): void {
    rejected++;
    // A file of another format shows it in its first line, and that explains its other lines, too. A file that gave a
    // row is JSON Lines.
    if (rejected === 1 && rows.rowCount === 0) fileCause = likelyCause(bytes, start, fault.code);
    else if (rows.rowCount > 0) fileCause = null;
    const also = rejected === 1 && fault.code === 'cut_off' ? ` ${fault.detail}` : '';
    options.onReject({
      line: blank + rejected + rows.rowCount,
      byteOffset: fileOffset + fault.at,
      code: fault.code,
      detail: fileCause === null ? fault.detail : `${fileCause}${also}`,
      excerpt: excerpt(bytes, start, end),
    });
  }

  function rejectTooLong(bytes: Buffer, start: number, end: number, fileOffset: number): void {
    const detail = `The line is longer than ${maxLineBytes} bytes, the limit. Write a newline after each object.`;
    const excerptEnd = Math.min(end, start + EXCERPT_BYTES);
    reject(new LineFault('line_too_long', start, detail), bytes, start, excerptEnd, fileOffset);
  }

  /**
   * Keeps the beginning of a line for the next chunk. A line that is already too long is rejected, its rest
   * skipped.
   */
  function carryOver(bytes: Buffer, start: number, end: number): void {
    if (start === end || skipsToNewline) return;
    if (carry.length === 0) carryFileOffset = bytesSeen + start;
    if (carry.length + end - start <= maxLineBytes) {
      carry.append(bytes, start, end);
      return;
    }
    carry.append(bytes, start, Math.min(end, start + EXCERPT_BYTES));
    rejectTooLong(carry.bytes, 0, carry.length, carryFileOffset);
    carry.clear();
    skipsToNewline = true;
  }

  function takeRows(): Buffer {
    options.profile?.add(rows.scores, rows.scoreCount);
    return rows.take();
  }

  return {
    scan(chunk) {
      refuseWhenFinished();
      const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      const start = scanCarriedLine(bytes);
      const end = bytes.lastIndexOf(NEWLINE) + 1;
      if (end > start) scanLines(bytes, start, end, bytesSeen);
      carryOver(bytes, Math.max(start, end), bytes.length);
      bytesSeen += bytes.length;
      return takeRows();
    },

    finish() {
      refuseWhenFinished();
      finished = true;
      if (carry.length > 0) {
        carry.appendNewline();
        scanLines(carry.bytes, 0, carry.length, carryFileOffset, true);
        carry.clear();
      }
      return takeRows();
    },

    get counts() {
      return {
        bytes: bytesSeen,
        lines: blank + rejected + rows.rowCount,
        blank,
        rejected,
        rows: rows.rowCount,
      };
    },
  };
}

function cutOff(at: number): LineFault {
  const detail =
    'The file ends in the middle of this line: it was truncated, or was still being written. Send the complete file.';
  return new LineFault('cut_off', at, detail);
}

/** The beginning of a line whose end is in a later chunk. */
class LineCarry {
  #bytes: Buffer = Buffer.allocUnsafeSlow(4096);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** The bytes so far: a view that is valid until the next call of `append`. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  append(source: Buffer, start: number, end: number): void {
    this.#reserve(end - start);
    source.copy(this.#bytes, this.#length, start, end);
    this.#length += end - start;
  }

  appendNewline(): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = NEWLINE;
  }

  clear(): void {
    this.#length = 0;
  }

  /** Doubles the buffer, so that a long line in small chunks is not copied again for each chunk. */
  #reserve(sizeBytes: number): void {
    const needed = this.#length + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
