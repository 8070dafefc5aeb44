/** Splits a double of 53 bits into two of 26 (Veltkamp). */
const SPLITTER = 2 ** 27 + 1;
/** A quotient nearer than this to the middle between two doubles, as a share of half their distance, is not decided here. */
const TOO_NEAR = 2 ** -40;

/** Half the distance between the doubles of each exponent as it is stored. */
const HALF_STEPS = Float64Array.from({ length: 2047 }, (_, exponent) => 2 ** (exponent - 1023 - 53));
const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/**
 * The double nearest to (first · scale + rest) / divisor, or NaN in the rare case that it takes more than a hundred
 * bits to know; then `Number` of the text tells. All are whole, `first` and `rest` below 10^15, and `scale` and
 * `divisor` powers of ten up to 10^22: each is a double without rounding.
 *
 * A score such as 0.8374659283746592 has more digits than one division gets right. What the division left over is
 * computed exactly (Dekker) and divided once more; the sum of both quotients is rounded once. Ten times as fast as
 * making a string of the digits for `Number`, on every line of most models.
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
  const high = words[1] as number; // every platform of Node's is little-endian
  const isPowerOfTwo = words[0] === 0 && (high & 0xfffff) === 0; // below it doubles stand closer
  const halfStep = HALF_STEPS[high >>> 20] as number;
  return isPowerOfTwo || lost > halfStep * (1 - TOO_NEAR) ? Number.NaN : nearest;
}

/** What was rounded off when `product` was made of `a` and `b`: a · b − product, exactly. */
function roundedOff(a: number, b: number, product: number): number {
  const aSplit = SPLITTER * a;
  const aHigh = aSplit - (aSplit - a);
  const aLow = a - aHigh;
  const bSplit = SPLITTER * b;
  const bHigh = bSplit - (bSplit - b);
  const bLow = b - bHigh;
  return aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow);
}
