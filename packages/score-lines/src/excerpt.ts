import { DELETE, SPACE } from './ascii.ts';
import { multibyteEnd } from './utf8.ts';

const EXCERPT_CHARACTERS = 200;
const INVISIBLE = /^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]$/u;

/**
 * The text from `start`, at most `limit` characters of it, safe to print and to store: control and invisible
 * characters are shown as `\t`, `\x00`, `\u{200b}`, bytes that are no UTF-8 as `\xff`. An ellipsis ends it
 * when there is more.
 */
export function excerpt(bytes: Uint8Array, start: number, end: number, limit = EXCERPT_CHARACTERS): string {
  let shown = '';
  let at = start;
  let shownBeforeLast = '';
  while (at < end) {
    const next = characterEnd(bytes, at, end);
    const character = next > at ? show(bytes, at, next) : showByte(bytes[at] as number);
    if (shown.length + character.length > limit) {
      return `${shown.length < limit ? shown : shownBeforeLast}…`;
    }
    shownBeforeLast = shown;
    shown += character;
    at = next > at ? next : at + 1;
  }
  return shown;
}

/** Control, bidirectional and other invisible characters, line separators, halves of a character. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Text that a terminal, a log or a page can show: what would move the cursor, change colours or turn the direction of
 * writing is shown as `\u{202e}` instead. For everything that a client, a file or PostgreSQL has said.
 */
export function printable(text: string): string {
  return text.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}

/** The same for a text of several lines. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** The same for JSON: it means what it meant, with those characters as its own escapes. */
export function printableJson(json: string): string {
  return json.replace(UNSAFE, (character) =>
    character === '\n'
      ? character // between lines; within a string JSON has escaped it
      : utf16(character),
  );
}

function utf16(character: string): string {
  let escapes = '';
  for (let unit = 0; unit < character.length; unit += 1)
    escapes += `\\u${character.charCodeAt(unit).toString(16).padStart(4, '0')}`;
  return escapes;
}

function characterEnd(bytes: Uint8Array, at: number, end: number): number {
  if ((bytes[at] as number) < 0x80) return at + 1;
  const next = multibyteEnd(bytes, at);
  return next <= end ? next : -1;
}

function show(bytes: Uint8Array, start: number, end: number): string {
  const byte = bytes[start] as number;
  if (byte < SPACE || byte === DELETE) return showByte(byte);
  if (byte < 0x80) return String.fromCharCode(byte);
  const character = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8');
  return INVISIBLE.test(character) ? `\\u{${character.codePointAt(0)?.toString(16)}}` : character;
}

function showByte(byte: number): string {
  if (byte === 0x09) return '\\t';
  if (byte === 0x0d) return '\\r';
  return `\\x${byte.toString(16).padStart(2, '0')}`;
}
