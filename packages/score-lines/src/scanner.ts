import { NEWLINE } from './ascii.ts';
import { CopyRows } from './copy-rows.ts';
import { writeExactLine } from './exact-line.ts';
import { excerpt } from './excerpt.ts';
import { type KeySearch, keyOfRow } from './key-search.ts';
import { likelyCause } from './likely-cause.ts';
import { LineCarry } from './line-carry.ts';
import { LineFault } from './line-fault.ts';
import type { RejectedLine } from './rejected-line.ts';
import type { ScoreProfile } from './score-profile.ts';
import { writeUsualLines } from './usual-lines.ts';

/** The columns of a row, in the order in which the scanner writes them. */
export const COPY_COLUMNS = ['score', 'pk', 'attributes'] as const;

const MAX_LINE_BYTES_DEFAULT = 1024 * 1024;
/** jsonb holds strings of up to 256 MiB, V8 of up to 512 MiB. */
const MAX_LINE_BYTES_LIMIT = 256 * 1024 * 1024 - 1;
/** 200 characters of up to four bytes. */
const EXCERPT_BYTES = 800;

/** What was seen so far; `lines` = `blank` + `rejected` + `rows`. */
export interface LineCounts {
  readonly bytes: number;
  readonly lines: number;
  readonly blank: number;
  readonly rejected: number;
  readonly rows: number;
}

/** Scans one file, once. Its memory is bounded by the largest chunk and the longest line, not by the file. */
export interface ScoreLineScanner {
  /**
   * Scans the next bytes of the file, cut anywhere, and returns the rows that they complete (it may be empty), for
   * the caller to keep. Nothing of the chunk is held after the call.
   */
  scan(chunk: Uint8Array): Buffer;
  /** Ends the file: returns the row of a last line without newline, if there is one. */
  finish(): Buffer;
  readonly counts: LineCounts;
}

export interface ScoreLineScannerOptions {
  /** Called once for each refused line, in the order of the file. What it throws ends the scan. */
  onReject(rejected: RejectedLine): void;
  /** To learn where certain keys stand. Lines are then taken one by one: several times slower. */
  find?: KeySearch;
  /** Is given every score; one profile may be handed to the scanners of several files, one after the other. */
  profile?: ScoreProfile;
  /** The longest line that is accepted, without its newline: 1 MiB when left out, 256 MiB at most. */
  maxLineBytes?: number;
}

/**
 * Turns a file of JSON Lines into rows of PostgreSQL's COPY (FORMAT binary, columns as COPY_COLUMNS; COPY_HEAD
 * before the first and COPY_TAIL after the last are the caller's), or says what is wrong with a line and where. See
 * README.md for what is accepted.
 */
export function createScoreLineScanner(options: ScoreLineScannerOptions): ScoreLineScanner {
  const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES_DEFAULT;
  if (!Number.isSafeInteger(maxLineBytes) || maxLineBytes < 1 || maxLineBytes > MAX_LINE_BYTES_LIMIT) {
    throw new RangeError(
      `maxLineBytes must be a whole number from 1 to ${MAX_LINE_BYTES_LIMIT}, not ${maxLineBytes}.`,
    );
  }
  const rows = new CopyRows();
  const carry = new LineCarry();
  let carryFileOffset = 0;
  let bytesSeen = 0;
  let blank = 0;
  let rejected = 0;
  let skipsToNewline = false;
  let finished = false;

  function reject(fault: LineFault, bytes: Buffer, start: number, end: number, fileOffset: number): void {
    rejected++;
    // What is no JSON Lines file shows it in its first line; what one row was made of is one.
    const cause = rejected === 1 && rows.rowCount === 0 ? likelyCause(bytes, start, end) : null;
    options.onReject({
      line: blank + rejected + rows.rowCount,
      byteOffset: fileOffset + fault.at,
      code: fault.code,
      detail: cause === null ? fault.detail : `${cause} ${fault.detail}`,
      excerpt: excerpt(bytes, start, end),
    });
  }

  function rejectTooLong(bytes: Buffer, start: number, end: number, fileOffset: number): void {
    const detail = `The line is longer than ${maxLineBytes} bytes; perhaps newlines between the objects are missing.`;
    const excerptEnd = Math.min(end, start + EXCERPT_BYTES);
    reject(new LineFault('line_too_long', start, detail), bytes, start, excerptEnd, fileOffset);
  }

  /** Takes one line that the fast path did not; `fileOffset` is where `bytes` begins in the file. */
  function takeExactLine(
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
      if (!writeExactLine(bytes, start, end, rows)) blank++;
    } catch (thrown) {
      if (!(thrown instanceof LineFault)) throw thrown;
      reject(thrown.endsEarly && isCut ? cutOff(end) : thrown, bytes, start, end, fileOffset);
    }
  }

  /** As `takeLines`, row by row, to see each row's key. */
  function takeLinesSearching(
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
      if (writeUsualLines(bytes, at, lineEnd + 1, rows, maxLineBytes) === at) {
        takeExactLine(bytes, at, lineEnd, fileOffset, isCut);
      }
      if (rows.rowCount === rowsBefore) continue;
      const pk = keyOfRow(rows.bytes, rowStart);
      if (!search.keys.has(pk)) continue;
      const line = blank + rejected + rows.rowCount;
      search.onFound({ pk, line, byteOffset: fileOffset + at, excerpt: excerpt(bytes, at, lineEnd) });
    }
  }

  /** Takes whole lines; the byte before `end` is the newline of the last one. */
  function takeLines(bytes: Buffer, start: number, end: number, fileOffset: number, isCut = false): void {
    if (options.find !== undefined) {
      takeLinesSearching(options.find, bytes, start, end, fileOffset, isCut);
      return;
    }
    let at = start;
    for (;;) {
      at = writeUsualLines(bytes, at, end, rows, maxLineBytes);
      if (at === end) return;
      const lineEnd = bytes.indexOf(NEWLINE, at);
      takeExactLine(bytes, at, lineEnd, fileOffset, isCut);
      at = lineEnd + 1;
      if (at === end) return;
    }
  }

  /** Keeps the beginning of a line, unless it is too long already: then the rest of it is passed over unseen. */
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

  /** Takes the line that earlier chunks began, if `bytes` ends it, and returns where the next one begins. */
  function takeCarriedLine(bytes: Buffer): number {
    if (carry.length === 0 && !skipsToNewline) return 0;
    const end = bytes.indexOf(NEWLINE) + 1;
    if (end === 0) return 0;
    if (!skipsToNewline) {
      carry.append(bytes, 0, end);
      takeLines(carry.bytes, 0, carry.length, carryFileOffset);
      carry.clear();
    }
    skipsToNewline = false;
    return end;
  }

  function takeRows(): Buffer {
    options.profile?.add(rows.scores, rows.scoreCount);
    return rows.take();
  }

  function refuseWhenFinished(): void {
    if (finished) throw new Error('The scanner has finished its file; create one scanner for each file.');
  }

  return {
    scan(chunk) {
      refuseWhenFinished();
      const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      const start = takeCarriedLine(bytes);
      const end = bytes.lastIndexOf(NEWLINE) + 1;
      if (end > start) takeLines(bytes, start, end, bytesSeen);
      carryOver(bytes, Math.max(start, end), bytes.length);
      bytesSeen += bytes.length;
      return takeRows();
    },

    finish() {
      refuseWhenFinished();
      finished = true;
      if (carry.length > 0) {
        carry.appendNewline();
        takeLines(carry.bytes, 0, carry.length, carryFileOffset, true);
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
    'The file ends in the middle of a line: it was cut, or was still being written. Send it again, whole.';
  return new LineFault('cut_off', at, detail);
}
