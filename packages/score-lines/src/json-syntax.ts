import { printable } from 'wire';
import { hintAt } from './likely-cause.ts';
import { LineFault } from './rejects.ts';

// The characters of a line (the bytes that JSON gives a meaning to, UTF-8, text that is safe to show), and the tokens.

export const NUL = 0x00;
export const TAB = 0x09;
export const NEWLINE = 0x0a;
export const CARRIAGE_RETURN = 0x0d;
export const SPACE = 0x20;
export const QUOTE = 0x22;
export const PLUS = 0x2b;
export const COMMA = 0x2c;
export const MINUS = 0x2d;
export const POINT = 0x2e;
export const DIGIT_0 = 0x30;
export const DIGIT_9 = 0x39;
export const COLON = 0x3a;
export const OPEN_BRACKET = 0x5b;
export const BACKSLASH = 0x5c;
export const CLOSE_BRACKET = 0x5d;
export const OPEN_BRACE = 0x7b;
export const CLOSE_BRACE = 0x7d;
const DELETE = 0x7f;

export function isDigit(byte: number | undefined): boolean {
  return (byte as number) >= DIGIT_0 && (byte as number) <= DIGIT_9; // false for undefined
}

export const INVALID_UTF8 = -1;
/** The character is valid so far, but the line ends inside it. */
export const UNFINISHED_UTF8 = -2;

/**
 * The index after the character of two to four bytes that starts at `at`; or `INVALID_UTF8`, or
 * `UNFINISHED_UTF8`. Implements the well-formed sequences of the Unicode Standard (table 3-7): overlong
 * forms, surrogates and code points above U+10FFFF are invalid, as they are to PostgreSQL.
 */
export function multibyteEnd(bytes: Uint8Array, at: number): number {
  const lead = bytes[at] as number;
  if (lead < 0xc2 || lead > 0xf4) return INVALID_UTF8;
  let lowest = 0x80;
  let highest = 0xbf;
  if (lead === 0xe0) lowest = 0xa0;
  else if (lead === 0xed) highest = 0x9f;
  else if (lead === 0xf0) lowest = 0x90;
  else if (lead === 0xf4) highest = 0x8f;
  const end = at + (lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4);
  for (let next = at + 1; next < end; next++) {
    const byte = bytes[next];
    if (byte === undefined || byte === NEWLINE) return UNFINISHED_UTF8;
    if (byte < lowest || byte > highest) return INVALID_UTF8;
    lowest = 0x80;
    highest = 0xbf;
  }
  return end;
}

const EXCERPT_CHARACTERS = 200;

/**
 * At most `limit` characters of the text from `start`, safe to show and to store: control characters and
 * bytes that are not UTF-8 are shown as `\t`, `\x00` or `\xff`, other invisible characters as `\u{200b}`.
 * Ends with an ellipsis when there is more text.
 */
export function excerpt(bytes: Uint8Array, start: number, end: number, limit = EXCERPT_CHARACTERS): string {
  let shown = '';
  let shownBeforeLast = '';
  let at = start;
  while (at < end) {
    const next = characterEnd(bytes, at, end);
    const character = next > at ? shownCharacter(bytes, at, next) : shownByte(bytes[at] as number);
    if (shown.length + character.length > limit) {
      return `${shown.length < limit ? shown : shownBeforeLast}…`;
    }
    shownBeforeLast = shown;
    shown += character;
    at = next > at ? next : at + 1;
  }
  return shown;
}

/** A negative number when no character starts at `at`, or when it ends after `end`. */
function characterEnd(bytes: Uint8Array, at: number, end: number): number {
  if ((bytes[at] as number) < 0x80) return at + 1;
  const next = multibyteEnd(bytes, at);
  return next <= end ? next : -1;
}

function shownCharacter(bytes: Uint8Array, start: number, end: number): string {
  const byte = bytes[start] as number;
  if (byte < SPACE || byte === DELETE) return shownByte(byte);
  if (byte < 0x80) return String.fromCharCode(byte);
  return printable(Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8'));
}

function shownByte(byte: number): string {
  if (byte === TAB) return '\\t';
  if (byte === CARRIAGE_RETURN) return '\\r';
  return `\\x${byte.toString(16).padStart(2, '0')}`;
}

// The tokens of JSON. Each `skip` function takes the index where a token begins and returns the index after
// it, or throws a LineFault. None checks for the end of the buffer: every line ends with a newline (the
// scanner appends one to a last line without it), and no token can contain a newline, so each function stops
// there.

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
    if (bytes[at] !== literal.charCodeAt(index))
      throw unexpectedByte(bytes, at, `the word ${literal}`, start);
  }
  return at;
}

/** 1 for bytes that a string contains without an escape: ASCII but control characters, quote and backslash. */
const PLAIN_IN_STRING = new Uint8Array(256).fill(1, SPACE, 0x80);
PLAIN_IN_STRING[QUOTE] = 0;
PLAIN_IN_STRING[BACKSLASH] = 0;

/** Skips a string (RFC 8259 §7) that PostgreSQL can store: UTF-8 without NUL and without lone surrogates. */
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
    `A string contains a raw control character; JSON requires the escape ${written}.`,
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
      'A string contains \\u0000, a NUL character, which PostgreSQL cannot store. Remove it.',
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
    'A string contains one half of a surrogate pair (\\ud800 to \\udfff) without the other half. This is not a character, and PostgreSQL cannot store it.',
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

export function hasEscape(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if (bytes[at] === BACKSLASH) return true;
  }
  return false;
}

/** The value of a string that `skipString` has passed: JSON.parse alters nothing in it. */
export function decodeString(bytes: Uint8Array, start: number, end: number): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8');
  return JSON.parse(text) as string;
}

export function skipNumber(bytes: Uint8Array, start: number): number {
  const end = numberEnd(bytes, start);
  // A word after a minus: -inf.
  if (end < 0) throw unexpectedByte(bytes, ~end, 'a digit of a number', ~end === start + 1 ? start : ~end);
  return end;
}

/**
 * The index after the number (RFC 8259 §6) that begins at `start`; or the bitwise complement (`~at`) of the
 * index where a digit is missing.
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

/**
 * What is wrong with the byte at `at`, where JSON's grammar requires `expected` ("a colon").
 *
 * @param from where the word begins that contains the byte.
 */
export function unexpectedByte(bytes: Uint8Array, at: number, expected: string, from = at): LineFault {
  const byte = bytes[at] as number;
  if (byte === NEWLINE) {
    return new LineFault('invalid_json', at, `The line ends where ${expected} is expected.`, true);
  }
  if (byte === NUL) {
    return new LineFault(
      'nul',
      at,
      'The line contains a NUL byte (0x00), which PostgreSQL cannot store. Remove it.',
    );
  }
  if (byte >= 0x80) {
    const end = multibyteEnd(bytes, at);
    if (end === INVALID_UTF8 || end === UNFINISHED_UTF8)
      return invalidUtf8(bytes, at, end === UNFINISHED_UTF8);
  }
  const before = textBetween(bytes, from - HINT_BYTES, from);
  const after = textBetween(bytes, from, from + HINT_BYTES);
  const word = /^[+-]?[\w.'<>/()]+/.exec(after)?.[0].length ?? 0;
  const found = excerpt(bytes, from, word > 0 ? from + word : characterAt(bytes, from));
  const hint = hintAt(before, after, expected);
  const detail = `Expected ${expected}, found ${found}.${hint === '' ? '' : ` ${hint}`}`;
  return new LineFault('invalid_json', at, detail);
}

/** Enough for every word and number that a hint is about. */
const HINT_BYTES = 40;

/** As latin1. */
function textBetween(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(
    'latin1',
    Math.max(0, start),
    end,
  );
}

function characterAt(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) < 0x80 ? at + 1 : multibyteEnd(bytes, at);
}

function invalidUtf8(bytes: Uint8Array, at: number, endsEarly: boolean): LineFault {
  const shown = `0x${(bytes[at] as number).toString(16)}`;
  // One byte that is not ASCII between others that are: a character of Latin-1 or of Windows-1252.
  const isSingle = !endsEarly && (bytes[at + 1] as number) < 0x80;
  const cause = isSingle
    ? ', or convert it from the encoding that it has: iconv -f WINDOWS-1252 -t UTF-8 FILE'
    : '';
  return new LineFault(
    'invalid_utf8',
    at,
    `The byte ${shown} does not start a valid UTF-8 character. Write the file in UTF-8${cause}.`,
    endsEarly,
  );
}
