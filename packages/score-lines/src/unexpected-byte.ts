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
  return new LineFault('invalid_json', at, `Expected ${expected}, but found ${found}.${hint(bytes, at)}`);
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

/** What other writers than JSON's put there. */
function hint(bytes: Uint8Array, at: number): string {
  const text = Buffer.from(bytes.subarray(at, at + 9)).toString('latin1');
  if (/^None\b/.test(text))
    return " Python's None is not JSON; write with json.dumps, and leave such a row out.";
  if (/^(True|False)\b/.test(text)) return " Python's True and False are not JSON; write with json.dumps.";
  // Of a word that begins as null does, the first letter has been taken.
  if (/^[+]?(nan|inf)/i.test(text) || (/^an\b/.test(text) && bytes[at - 1] === 0x6e))
    return ' NaN and Infinity are not JSON; leave such a row out.';
  if (text.startsWith("'")) return ' JSON strings are in double quotes.';
  if (/^\d/.test(text) && bytes[at - 1] === 0x30) {
    return ' A JSON number has no leading zeros; write a key with leading zeros as a string ("007").';
  }
  return '';
}
