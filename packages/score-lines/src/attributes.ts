import {
  CLOSE_BRACE,
  CLOSE_BRACKET,
  COLON,
  COMMA,
  decodeString,
  excerpt,
  hasEscape,
  isDigit,
  MINUS,
  OPEN_BRACE,
  OPEN_BRACKET,
  QUOTE,
  skipByte,
  skipLiteral,
  skipNumber,
  skipString,
  skipWhitespace,
  unexpectedByte,
} from './json-syntax.ts';
import { NUMERIC_RANGE, numericDigits } from './numbers.ts';
import { LineFault } from './rejects.ts';

/**
 * Levels of objects and arrays in a line; the line's own object is the first. PostgreSQL is limited by its
 * stack.
 */
const DEPTH_MAX = 256;
/**
 * The limit for the digits of all numbers of a line. A line of 1 MiB can contain 100,000 numbers like
 * 1e131071: jsonb stores each in a few bytes, but cannot write them out (13 GB), so that every query that
 * reads the row fails.
 */
const WRITTEN_DIGITS_MAX = 16 * 1024 * 1024;

/** Totals over the values of one line. */
export interface LineTotals {
  writtenDigits: number;
}

/**
 * Skips any JSON value. Throws a LineFault for text that is not JSON, and for a value that jsonb would refuse
 * or alter. `depth` is the number of objects and arrays around the value.
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
    const detail = `PostgreSQL cannot store the number ${number}: numeric takes ${NUMERIC_RANGE}. Write it as a string.`;
    throw new LineFault('number_out_of_range', start, detail);
  }
  totals.writtenDigits += digits;
  if (totals.writtenDigits > WRITTEN_DIGITS_MAX) {
    const detail =
      'The numbers of this line take more than 16 MiB when PostgreSQL writes out their exponents. Write them as strings.';
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

/** Of two members with the same key jsonb would keep only the last, without an error. */
export function refuseRepeated(keys: SeenKeys, bytes: Uint8Array, start: number, end: number): void {
  if (keys.add(start, end)) return;
  const key = excerpt(bytes, start, end, 60);
  const detail = `The key ${key} occurs twice in the same object, and PostgreSQL would keep only one value. Remove or rename one.`;
  throw new LineFault('duplicate_attribute', start, detail);
}

/** With more keys a set is faster than comparing each with each: 100,000 keys would take minutes. */
const COMPARED_KEYS_MAX = 16;

/**
 * The keys of one object, to find a repeated one, with or without escapes. A span is a string with its
 * quotes.
 */
export class SeenKeys {
  readonly #bytes: Uint8Array;
  readonly #spans: number[] = [];
  #names: Set<string> | undefined;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** False when the object already has the key. */
  add(start: number, end: number): boolean {
    if (this.#names === undefined) {
      if (this.#spans.length < 2 * COMPARED_KEYS_MAX && !hasEscape(this.#bytes, start, end)) {
        if (this.#holdsSpan(start, end)) return false;
        this.#spans.push(start, end);
        return true;
      }
      this.#names = this.#decodeSpans();
    }
    const sizeBefore = this.#names.size;
    return this.#names.add(decodeString(this.#bytes, start, end)).size > sizeBefore;
  }

  #holdsSpan(start: number, end: number): boolean {
    const spans = this.#spans;
    for (let index = 0; index < spans.length; index += 2) {
      const other = spans[index] as number;
      if ((spans[index + 1] as number) - other !== end - start) continue;
      let same = 1;
      while (same < end - start && this.#bytes[other + same] === this.#bytes[start + same]) same++;
      if (same === end - start) return true;
    }
    return false;
  }

  #decodeSpans(): Set<string> {
    const names = new Set<string>();
    const spans = this.#spans;
    for (let index = 0; index < spans.length; index += 2) {
      names.add(decodeString(this.#bytes, spans[index] as number, spans[index + 1] as number));
    }
    return names;
  }
}
