import {
  BACKSLASH,
  CARRIAGE_RETURN,
  DIGIT_0,
  isDigit,
  MINUS,
  NEWLINE,
  NUL,
  PLUS,
  POINT,
  QUOTE,
  SPACE,
  TAB,
} from './ascii.ts';
import { LineFault } from './line-fault.ts';
import { unexpectedByte } from './unexpected-byte.ts';
import { multibyteEnd } from './utf8.ts';

// Every function here takes the index where a token begins and gives the index behind it, or throws a
// LineFault. None checks for the end of the buffer: the newline that ends each line (the scanner adds one to a
// last line without) is a byte that no token can hold, so that it stops them all.

/** JSON's whitespace (RFC 8259 §2), without the newline, which ends the line. */
export function skipWhitespace(bytes: Uint8Array, start: number): number {
  let at = start;
  for (;;) {
    const byte = bytes[at] as number;
    if (byte > SPACE) return at;
    if (byte !== SPACE && byte !== TAB && byte !== CARRIAGE_RETURN) return at;
    at++;
  }
}

export function skipByte(bytes: Uint8Array, at: number, expected: number, name: string): number {
  if (bytes[at] !== expected) throw unexpectedByte(bytes, at, name);
  return at + 1;
}

export function skipLiteral(bytes: Uint8Array, start: number, literal: 'true' | 'false' | 'null'): number {
  let at = start;
  for (let index = 0; index < literal.length; index++, at++) {
    if (bytes[at] !== literal.charCodeAt(index)) throw unexpectedByte(bytes, at, `the word ${literal}`);
  }
  return at;
}

/** 1 for what stands for itself in a string and takes one byte: ASCII without control characters, quote, backslash. */
const PLAIN_IN_STRING = new Uint8Array(256).fill(1, SPACE, 0x80);
PLAIN_IN_STRING[QUOTE] = 0;
PLAIN_IN_STRING[BACKSLASH] = 0;

/** Skips a string (RFC 8259 §7) and makes sure that PostgreSQL can store it: it is UTF-8 without NUL and lone surrogates. */
export function skipString(bytes: Uint8Array, start: number): number {
  let at = start + 1;
  for (;;) {
    while (PLAIN_IN_STRING[bytes[at] as number] === 1) at++;
    const byte = bytes[at] as number;
    if (byte === QUOTE) return at + 1;
    if (byte === BACKSLASH) at = skipEscape(bytes, at);
    else if (byte >= 0x80) {
      const end = multibyteEnd(bytes, at);
      if (end < 0) throw unexpectedByte(bytes, at, 'text');
      at = end;
    } else if (byte === NEWLINE || byte === NUL)
      throw unexpectedByte(bytes, at, 'the closing quote of a string');
    else throw rawControlCharacter(at, byte);
  }
}

function rawControlCharacter(at: number, byte: number): LineFault {
  const written = `\\u${byte.toString(16).padStart(4, '0')}`;
  return new LineFault(
    'invalid_json',
    at,
    `A string holds a raw control character; JSON wants it written as ${written}.`,
  );
}

function skipEscape(bytes: Uint8Array, start: number): number {
  const letter = bytes[start + 1] as number;
  if (letter === 0x75) return skipUnicodeEscape(bytes, start);
  // One of "\/bfnrt.
  const known =
    letter === QUOTE ||
    letter === BACKSLASH ||
    letter === 0x2f ||
    letter === 0x62 ||
    letter === 0x66 ||
    letter === 0x6e ||
    letter === 0x72 ||
    letter === 0x74;
  if (!known) throw unexpectedByte(bytes, start + 1, 'one of "\\/bfnrtu after a backslash');
  return start + 2;
}

function skipUnicodeEscape(bytes: Uint8Array, start: number): number {
  const unit = hexUnit(bytes, start + 2);
  if (unit === 0) {
    throw new LineFault(
      'nul',
      start,
      'A string holds \\u0000, a NUL character, which PostgreSQL cannot store.',
    );
  }
  if (unit < 0xd800 || unit > 0xdfff) return start + 6;
  if (unit < 0xdc00 && bytes[start + 6] === NEWLINE)
    throw unexpectedByte(bytes, start + 6, 'the second half of a surrogate pair');
  if (unit < 0xdc00 && bytes[start + 6] === BACKSLASH) {
    if (bytes[start + 7] === NEWLINE)
      throw unexpectedByte(bytes, start + 7, 'the second half of a surrogate pair');
    if (bytes[start + 7] === 0x75) {
      const second = hexUnit(bytes, start + 8);
      if (second >= 0xdc00 && second <= 0xdfff) return start + 12;
    }
  }
  throw new LineFault(
    'lone_surrogate',
    start,
    'A string holds one half of a surrogate pair (\\ud800 to \\udfff) without the other half; that is no character, and PostgreSQL cannot store it.',
  );
}

function hexUnit(bytes: Uint8Array, start: number): number {
  let unit = 0;
  for (let at = start; at < start + 4; at++) {
    const byte = bytes[at] as number;
    const lower = byte | 0x20;
    if (isDigit(byte)) unit = unit * 16 + byte - DIGIT_0;
    else if (lower >= 0x61 && lower <= 0x66) unit = unit * 16 + lower - 0x61 + 10;
    else throw unexpectedByte(bytes, at, 'four hexadecimal digits after \\u');
  }
  return unit;
}

export function skipNumber(bytes: Uint8Array, start: number): number {
  const end = numberEnd(bytes, start);
  if (end < 0) throw unexpectedByte(bytes, ~end, 'a digit of a number');
  return end;
}

/**
 * The index behind the number (RFC 8259 §6) that begins at `start`; or, as its bitwise complement (`~at`), the
 * index where a digit should stand and does not.
 */
export function numberEnd(bytes: Uint8Array, start: number): number {
  let at = bytes[start] === MINUS ? start + 1 : start;
  if (!isDigit(bytes[at])) return ~at;
  at = bytes[at] === DIGIT_0 ? at + 1 : digitsEnd(bytes, at);
  if (bytes[at] === POINT) {
    at++;
    if (!isDigit(bytes[at])) return ~at;
    at = digitsEnd(bytes, at);
  }
  if (bytes[at] === 0x65 || bytes[at] === 0x45) {
    at++;
    if (bytes[at] === PLUS || bytes[at] === MINUS) at++;
    if (!isDigit(bytes[at])) return ~at;
    at = digitsEnd(bytes, at);
  }
  return at;
}

function digitsEnd(bytes: Uint8Array, start: number): number {
  let at = start;
  while (isDigit(bytes[at])) at++;
  return at;
}
