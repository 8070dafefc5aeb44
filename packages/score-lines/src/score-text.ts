import { numberEnd } from './json-syntax.ts';

/** A number without exponent that is not longer than this is always within the range of double precision. */
export const PLAIN_SCORE_BYTES_MAX = 300;

/**
 * Whether the bytes are a score: a number in JSON's grammar (also where it stands in a string: no whitespace, no
 * plus sign, no hexadecimal, no NaN, no Infinity) that float8in takes. It refuses what overflows and what is not
 * zero but would become zero; JavaScript rounds as it does, so `Number` tells.
 */
export function isScore(bytes: Uint8Array, start: number, end: number): boolean {
  if (start === end || numberEnd(bytes, start) !== end) return false;
  if (end - start <= PLAIN_SCORE_BYTES_MAX && !hasExponent(bytes, start, end)) return true;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1');
  const value = Number(text);
  return Number.isFinite(value) && (value !== 0 || !/^[-0.]*[1-9]/.test(text));
}

function hasExponent(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if (bytes[at] === 0x65 || bytes[at] === 0x45) return true;
  }
  return false;
}
