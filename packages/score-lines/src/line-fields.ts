import { DIGIT_0, DIGIT_9, isDigit, MINUS, QUOTE } from './ascii.ts';
import { type LineTotals, skipValue } from './attribute-value.ts';
import { excerpt } from './excerpt.ts';
import { skipNumber, skipString } from './json-syntax.ts';
import { LineFault } from './line-fault.ts';
import { isScore } from './score-text.ts';
import { decodeString, hasEscape } from './seen-keys.ts';

/** A B-tree refuses keys over 2,704 bytes, and only when the primary key is built, after the whole load. */
export const PK_BYTES_MAX = 2048;

/** The text that goes into a column, and the index behind the value in the line. */
export interface Field {
  readonly source: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly next: number;
}

/** `pk` is a string that is not empty, or an integer, whose digits are kept as they are written. */
export function readPk(bytes: Uint8Array, at: number, totals: LineTotals): Field {
  const pk = readText(bytes, at, totals);
  const kept = pk !== undefined && (bytes[at] === QUOTE ? pk.end > pk.start : isInteger(bytes, pk));
  if (!kept) {
    const rule = 'pk must be a string that is not empty, or an integer without fraction and exponent';
    throw new LineFault('invalid_pk', at, `${rule}; it is ${valueAt(bytes, at, totals)}.`);
  }
  const sizeBytes = pk.end - pk.start;
  if (sizeBytes > PK_BYTES_MAX) {
    const detail = `pk is ${sizeBytes} bytes long; the key of a row may have ${PK_BYTES_MAX}.`;
    throw new LineFault('pk_too_long', at, detail);
  }
  return pk;
}

/** `score` is a finite number, or a string that holds one; it goes to PostgreSQL as it is written. */
export function readScore(bytes: Uint8Array, at: number, totals: LineTotals): Field {
  const score = readText(bytes, at, totals);
  if (score === undefined || !isScore(score.source, score.start, score.end)) {
    const rule =
      'score must be a finite number of double precision, or a string that holds one in the grammar of JSON';
    throw new LineFault('invalid_score', at, `${rule}; it is ${valueAt(bytes, at, totals)}.`);
  }
  return score;
}

/** The text of a string or a number; undefined for a value of another kind. */
function readText(bytes: Uint8Array, at: number, totals: LineTotals): Field | undefined {
  const byte = bytes[at];
  if (byte === QUOTE) {
    const next = skipString(bytes, at);
    if (!hasEscape(bytes, at, next)) return { source: bytes, start: at + 1, end: next - 1, next };
    // The newline is the sentinel that json-syntax.ts asks for.
    const source = Buffer.from(`${decodeString(bytes, at, next)}\n`, 'utf8');
    return { source, start: 0, end: source.length - 1, next };
  }
  if (byte === MINUS || isDigit(byte)) {
    const next = skipNumber(bytes, at);
    return { source: bytes, start: at, end: next, next };
  }
  skipValue(bytes, at, 1, totals);
  return undefined;
}

function isInteger(bytes: Uint8Array, { start, end }: Field): boolean {
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number;
    if ((byte < DIGIT_0 || byte > DIGIT_9) && byte !== MINUS) return false;
  }
  return true;
}

function valueAt(bytes: Uint8Array, at: number, totals: LineTotals): string {
  const byte = bytes[at];
  const isNumber = byte === MINUS || isDigit(byte);
  return excerpt(bytes, at, isNumber ? skipNumber(bytes, at) : skipValue(bytes, at, 1, totals), 60);
}
