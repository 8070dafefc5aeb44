export const INVALID_UTF8 = -1;
/** The character is good so far, but the line ends within it. */
export const UNFINISHED_UTF8 = -2;

/**
 * The index behind the character of two to four bytes that begins at `at`; or `INVALID_UTF8`, or
 * `UNFINISHED_UTF8`. Follows the table of well-formed sequences of the Unicode Standard (table 3-7), so that
 * overlong forms, surrogates and what lies beyond U+10FFFF are refused, as PostgreSQL refuses them.
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
    if (byte === undefined || byte === 0x0a) return UNFINISHED_UTF8;
    if (byte < lowest || byte > highest) return INVALID_UTF8;
    lowest = 0x80;
    highest = 0xbf;
  }
  return end;
}
