import { NEWLINE, NUL } from './ascii.ts';
import { excerpt } from './excerpt.ts';
import { LineFault } from './line-fault.ts';
import { INVALID_UTF8, multibyteEnd, UNFINISHED_UTF8 } from './utf8.ts';

/** What is wrong with the byte at `at`, where JSON's grammar wants `expected` ("a colon"). */
export function unexpectedByte(bytes: Uint8Array, at: number, expected: string): LineFault {
  const byte = bytes[at] as number;
  if (byte === NEWLINE) {
    return new LineFault('invalid_json', at, `The line ends where ${expected} should stand.`, true);
  }
  if (byte === NUL) {
    return new LineFault('nul', at, 'The line holds a NUL byte (0x00), which PostgreSQL cannot store.');
  }
  if (byte >= 0x80) {
    const end = multibyteEnd(bytes, at);
    if (end === INVALID_UTF8 || end === UNFINISHED_UTF8)
      return invalidUtf8(byte, at, end === UNFINISHED_UTF8);
  }
  const found = excerpt(bytes, at, at + (byte < 0x80 ? 1 : multibyteEnd(bytes, at) - at));
  return new LineFault('invalid_json', at, `Expected ${expected}, but found ${found}.${hint(byte)}`);
}

function invalidUtf8(byte: number, at: number, endsEarly: boolean): LineFault {
  const shown = `0x${byte.toString(16)}`;
  return new LineFault(
    'invalid_utf8',
    at,
    `The byte ${shown} does not begin a well-formed UTF-8 character; write the file in UTF-8.`,
    endsEarly,
  );
}

function hint(byte: number): string {
  if (byte === 0x4e || byte === 0x49) return ' NaN and Infinity are not JSON; leave such a row out.';
  if (byte === 0x27) return ' JSON strings stand in double quotes.';
  return '';
}
