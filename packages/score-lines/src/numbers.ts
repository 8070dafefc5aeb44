import { DIGIT_0, isDigit, MINUS, numberEnd, POINT } from './json-syntax.ts';

// The numbers that PostgreSQL can store: a score as double precision, a number in the attributes as numeric.

/**
 * A number without an exponent that is not longer than this is always within the range of double precision.
 */
export const PLAIN_SCORE_BYTES_MAX = 300;

/**
 * Whether the bytes are a score: a number in JSON's grammar (inside a string too: no whitespace, no plus
 * sign, no hexadecimal, no NaN, no Infinity) that float8in accepts. float8in refuses numbers that overflow,
 * and numbers other than zero that would become zero. JavaScript rounds as it does, so `Number` decides.
 */
export function isScore(bytes: Uint8Array, start: number, end: number): boolean {
  if (start === end || numberEnd(bytes, start) !== end) return false;
  if (end - start <= PLAIN_SCORE_BYTES_MAX && !hasExponent(bytes, start, end)) return true;
  const text = textOf(bytes, start, end);
  const value = Number(text);
  return Number.isFinite(value) && (value !== 0 || !/^[-0.]*[1-9]/.test(text));
}

/**
 * Whole numbers of up to 15 digits are exact doubles, so that one division by a power of ten gives the
 * nearest double.
 */
export const EXACT_DIGITS_MAX = 15;
const DIGITS_MAX = 22;
/** Each is an exact double. */
export const POWERS_OF_TEN = Float64Array.from({ length: DIGITS_MAX + 1 }, (_, exponent) =>
  Number(`1e${exponent}`),
);

/** The double nearest to the score in the text: the one that float8in would return. */
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

/** Splits a double of 53 bits into two of 26 (Veltkamp). */
const SPLITTER = 2 ** 27 + 1;
/**
 * A quotient nearer than this to the middle between two doubles (as a share of half their distance) is left
 * to `Number`.
 */
const TOO_NEAR = 2 ** -40;

/** Half the distance between neighbouring doubles, by their exponent as it is stored. */
const HALF_STEPS = Float64Array.from({ length: 2047 }, (_, exponent) => 2 ** (exponent - 1023 - 53));
const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/**
 * The double nearest to (first · scale + rest) / divisor, or NaN in the rare case that about a hundred bits
 * do not decide it: then use `Number` of the text. All four are whole numbers and exact doubles: `first` and
 * `rest` are below 10^15, `scale` and `divisor` are powers of ten up to 10^22.
 *
 * A score such as 0.8374659283746592 has too many digits for one division. The remainder of the division is
 * computed exactly (Dekker) and divided once more; the sum of both quotients is rounded once. This is ten
 * times as fast as `Number` of a string, and most models write such scores on every line.
 */
export function nearestQuotient(first: number, scale: number, rest: number, divisor: number): number {
  const product = first * scale;
  const productRest = roundedOff(first, scale, product) + rest;
  const whole = product + productRest;
  const wholeRest = productRest - (whole - product);

  const quotient = whole / divisor;
  const back = quotient * divisor;
  const left = whole - back - roundedOff(quotient, divisor, back) + wholeRest;
  const more = left / divisor;
  const nearest = quotient + more;
  const lost = Math.abs(more - (nearest - quotient));

  double[0] = nearest;
  const high = words[1] as number; // every platform of Node is little-endian
  const isPowerOfTwo = words[0] === 0 && (high & 0xfffff) === 0; // below it doubles are closer together
  const halfStep = HALF_STEPS[high >>> 20] as number;
  return isPowerOfTwo || lost > halfStep * (1 - TOO_NEAR) ? Number.NaN : nearest;
}

/** The rounding error of `product`, the double of a · b: a · b − product, exactly. */
function roundedOff(a: number, b: number, product: number): number {
  const aSplit = SPLITTER * a;
  const aHigh = aSplit - (aSplit - a);
  const aLow = a - aHigh;
  const bSplit = SPLITTER * b;
  const bHigh = bSplit - (bSplit - b);
  const bLow = b - bHigh;
  return aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow);
}

// jsonb stores numbers as `numeric`. PostgreSQL 18 stores a number exactly when it has at most these many
// digits before and after the decimal point, with the exponent written out and trailing zeros counted;
// otherwise it fails with "value overflows numeric format". (Found by experiment: 1e131071 and 1e-16383 are
// the last powers of ten that fit.)
const DIGITS_BEFORE_POINT_MAX = 131_072;
const DIGITS_AFTER_POINT_MAX = 16_383;
/** numeric_in refuses exponents from about 2^30 on, for a zero too. */
const EXPONENT_MAX = 1_000_000_000;

export const NUMERIC_RANGE =
  'at most 131,072 digits before the decimal point and 16,383 after it, with the exponent written out';

/**
 * How many digits PostgreSQL writes for a number that `numberEnd` has passed; -1 when numeric cannot store
 * it.
 */
export function numericDigits(bytes: Uint8Array, start: number, end: number): number {
  let at = bytes[start] === MINUS ? start + 1 : start;
  let before = 0;
  for (; isDigit(bytes[at]) && at < end; at++) before++;
  // The place of the first digit that is not zero: 1 for units, 0 for tenths, -1 for hundredths, …
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
