import { DIGIT_0, isDigit, MINUS, POINT } from './ascii.ts';

// jsonb keeps numbers as `numeric`. PostgreSQL 18 takes, and gives back exactly, what has at most so many
// digits on each side of the point once the exponent is written out, zeros at the end included; anything else
// is the error "value overflows numeric format". (Found by trying; 1e131071 and 1e-16383 are the last to fit.)
const DIGITS_BEFORE_POINT_MAX = 131_072;
const DIGITS_AFTER_POINT_MAX = 16_383;
/** numeric_in gives up at 2^30, for a zero too. */
const EXPONENT_MAX = 1_000_000_000;

export const NUMERIC_RANGE =
  'at most 131,072 digits before the point and 16,383 after it, with the exponent written out';

/** How many digits PostgreSQL writes for a number, which `numberEnd` has passed, or -1 when numeric can't hold it. */
export function numericDigits(bytes: Uint8Array, start: number, end: number): number {
  let at = bytes[start] === MINUS ? start + 1 : start;
  let before = 0;
  for (; isDigit(bytes[at]) && at < end; at++) before++;
  // The place of the first digit that is not zero: 1 for units, 0 for tenths, and so on downward.
  let firstPlace = bytes[at - 1] === DIGIT_0 && before === 1 ? Number.NEGATIVE_INFINITY : before;
  let after = 0;
  if (at < end && bytes[at] === POINT) {
    for (at++; at < end && isDigit(bytes[at]); at++) {
      if (firstPlace === Number.NEGATIVE_INFINITY && bytes[at] !== DIGIT_0) firstPlace = -after;
      after++;
    }
  }
  if (at < end) {
    const exponent = exponentAt(bytes, at + 1, end);
    if (Math.abs(exponent) > EXPONENT_MAX) return -1;
    after = Math.max(0, after - exponent);
    before = firstPlace + exponent;
  }
  before = Math.max(1, before);
  return before > DIGITS_BEFORE_POINT_MAX || after > DIGITS_AFTER_POINT_MAX ? -1 : before + after;
}

function exponentAt(bytes: Uint8Array, start: number, end: number): number {
  const negative = bytes[start] === MINUS;
  let exponent = 0;
  for (let at = start; at < end; at++) {
    if (!isDigit(bytes[at])) continue;
    exponent = Math.min(exponent * 10 + (bytes[at] as number) - DIGIT_0, EXPONENT_MAX + 1);
  }
  return negative ? -exponent : exponent;
}
