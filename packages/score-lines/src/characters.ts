import { printable } from 'wire';

// The characters of a line: the bytes that JSON gives a meaning to, UTF-8, and text that is safe to show.

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
