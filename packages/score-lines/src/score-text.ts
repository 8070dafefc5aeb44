import { DIGIT_0, MINUS, POINT } from './ascii.ts';
import { numberEnd } from './json-syntax.ts';
import { nearestQuotient } from './nearest-double.ts';

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
  const text = textOf(bytes, start, end);
  const value = Number(text);
  return Number.isFinite(value) && (value !== 0 || !/^[-0.]*[1-9]/.test(text));
}

/** Whole numbers of so many digits are doubles without rounding, so that one division by a power of ten gives the nearest. */
export const EXACT_DIGITS_MAX = 15;
const DIGITS_MAX = 22;
/** Each is a double without rounding. */
export const POWERS_OF_TEN = Float64Array.from({ length: DIGITS_MAX + 1 }, (_, exponent) =>
  Number(`1e${exponent}`),
);

/** The double that is nearest to a score as it is written: what float8in would make of it. */
export function numberOf(bytes: Uint8Array, start: number, end: number): number {
  if (end - start > DIGITS_MAX || hasExponent(bytes, start, end)) return Number(textOf(bytes, start, end));
  const isNegative = bytes[start] === MINUS;
  let digits = 0;
  let first = 0;
  let rest = 0;
  let fractionStart = end;
  for (let at = isNegative ? start + 1 : start; at < end; at++) {
    const byte = bytes[at] as number;
    if (byte === POINT) fractionStart = at + 1;
    else if (digits++ < EXACT_DIGITS_MAX) first = first * 10 + (byte - DIGIT_0);
    else rest = rest * 10 + (byte - DIGIT_0);
  }
  const scale = POWERS_OF_TEN[Math.max(0, digits - EXACT_DIGITS_MAX)] as number;
  const divisor = POWERS_OF_TEN[end - fractionStart] as number;
  const value = nearestQuotient(first, scale, rest, divisor);
  if (Number.isNaN(value)) return Number(textOf(bytes, start, end));
  return isNegative ? -value : value;
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1');
}

function hasExponent(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if (bytes[at] === 0x65 || bytes[at] === 0x45) return true;
  }
  return false;
}
