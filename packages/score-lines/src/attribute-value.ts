import {
  CLOSE_BRACE,
  CLOSE_BRACKET,
  COLON,
  COMMA,
  isDigit,
  MINUS,
  OPEN_BRACE,
  OPEN_BRACKET,
  QUOTE,
} from './ascii.ts';
import { excerpt } from './excerpt.ts';
import { skipByte, skipLiteral, skipNumber, skipString, skipWhitespace } from './json-syntax.ts';
import { LineFault } from './line-fault.ts';
import { NUMERIC_RANGE, numericDigits } from './numeric-limits.ts';
import { SeenKeys } from './seen-keys.ts';
import { unexpectedByte } from './unexpected-byte.ts';

/** Levels of objects and arrays in a line, its own object being the first. PostgreSQL's own bound is its stack. */
const DEPTH_MAX = 256;
/**
 * A line of 1 MiB can hold 100,000 numbers like 1e131071, which jsonb stores in no space and then cannot write
 * out (13 GB), so that every query that touches the row fails. Together they may take this much.
 */
const WRITTEN_DIGITS_MAX = 16 * 1024 * 1024;

/** What adds up over the values of one line. */
export interface LineTotals {
  writtenDigits: number;
}

/**
 * Skips any JSON value, and throws for what is no JSON or what jsonb would refuse or alter. `depth` is the number
 * of objects and arrays that are open around it.
 */
export function skipValue(bytes: Uint8Array, at: number, depth: number, totals: LineTotals): number {
  const byte = bytes[at];
  if (byte === QUOTE) return skipString(bytes, at);
  if (byte === MINUS || isDigit(byte)) return skipStoredNumber(bytes, at, totals);
  if (byte === OPEN_BRACE) return skipObject(bytes, at, depth + 1, totals);
  if (byte === OPEN_BRACKET) return skipArray(bytes, at, depth + 1, totals);
  if (byte === 0x74) return skipLiteral(bytes, at, 'true');
  if (byte === 0x66) return skipLiteral(bytes, at, 'false');
  if (byte === 0x6e) return skipLiteral(bytes, at, 'null');
  throw unexpectedByte(bytes, at, 'a value');
}

function skipStoredNumber(bytes: Uint8Array, start: number, totals: LineTotals): number {
  const end = skipNumber(bytes, start);
  const digits = numericDigits(bytes, start, end);
  if (digits < 0) {
    const number = excerpt(bytes, start, end, 40);
    const detail = `The number ${number} is out of the range that PostgreSQL keeps exactly: ${NUMERIC_RANGE}.`;
    throw new LineFault('number_out_of_range', start, detail);
  }
  totals.writtenDigits += digits;
  if (totals.writtenDigits > WRITTEN_DIGITS_MAX) {
    const detail =
      'The numbers of the line, with their exponents written out as PostgreSQL does, take over 16 MiB.';
    throw new LineFault('number_out_of_range', start, detail);
  }
  return end;
}

function skipObject(bytes: Uint8Array, start: number, depth: number, totals: LineTotals): number {
  refuseDepth(start, depth);
  let at = skipWhitespace(bytes, start + 1);
  if (bytes[at] === CLOSE_BRACE) return at + 1;
  const keys = new SeenKeys(bytes);
  for (;;) {
    if (bytes[at] !== QUOTE) throw unexpectedByte(bytes, at, 'a key in double quotes');
    const keyEnd = skipString(bytes, at);
    refuseRepeated(keys, bytes, at, keyEnd);
    at = skipWhitespace(bytes, keyEnd);
    at = skipWhitespace(bytes, skipByte(bytes, at, COLON, 'a colon after the key'));
    at = skipWhitespace(bytes, skipValue(bytes, at, depth, totals));
    if (bytes[at] === CLOSE_BRACE) return at + 1;
    at = skipWhitespace(bytes, skipByte(bytes, at, COMMA, 'a comma or a closing brace'));
  }
}

function skipArray(bytes: Uint8Array, start: number, depth: number, totals: LineTotals): number {
  refuseDepth(start, depth);
  let at = skipWhitespace(bytes, start + 1);
  if (bytes[at] === CLOSE_BRACKET) return at + 1;
  for (;;) {
    at = skipWhitespace(bytes, skipValue(bytes, at, depth, totals));
    if (bytes[at] === CLOSE_BRACKET) return at + 1;
    at = skipWhitespace(bytes, skipByte(bytes, at, COMMA, 'a comma or a closing bracket'));
  }
}

function refuseDepth(at: number, depth: number): void {
  if (depth <= DEPTH_MAX) return;
  throw new LineFault('too_deep', at, `Objects and arrays are nested more than ${DEPTH_MAX} levels deep.`);
}

/** jsonb would keep the last of two members with the same key, without a word. */
export function refuseRepeated(keys: SeenKeys, bytes: Uint8Array, start: number, end: number): void {
  if (keys.add(start, end)) return;
  const key = excerpt(bytes, start, end, 60);
  const detail = `The key ${key} stands twice in the same object, and only one of the two could be kept.`;
  throw new LineFault('duplicate_attribute', start, detail);
}
