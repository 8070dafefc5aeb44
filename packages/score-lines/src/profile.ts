import type { Profile } from 'wire';

/** Bits of the mantissa that select the bucket: a bucket is at most 1/1024 of its values wide. */
const MANTISSA_BITS = 10;
const SHIFT = 20 - MANTISSA_BITS;
/** By sign, eleven bits of exponent, and the first bits of the mantissa. */
const BUCKETS = 2 ** (12 + MANTISSA_BITS);
const NEGATIVE = BUCKETS / 2;
/** The buckets of one sign and exponent. */
const BLOCK_BUCKETS = 2 ** MANTISSA_BITS;
const DECILES = [1, 2, 3, 4, 5, 6, 7, 8, 9];
/** A share of 0 would make the index infinite; one row in 10,000 is the usual minimum. */
const SHARE_MIN = 0.0001;

type ProfileSummary = Omit<Profile, 'bytes' | 'seconds'> & {
  /**
   * The share of rows in each bin: up to the first decile, …, above the last. Equal deciles make one edge.
   */
  readonly binShares: readonly number[];
};

/**
 * The distribution of a run's scores, computed in the one pass that reads them: count, minimum, maximum,
 * mean, standard deviation, and a histogram. The bucket of a score is made of its first bits (sign, exponent,
 * ten bits of the mantissa), so that each integer up to 1,024 has a bucket of its own and exact deciles. The
 * buckets of one sign and exponent take 4 KiB once such a score occurs; all of them would take 16 MiB.
 */
export class ScoreProfile {
  /** By sign and exponent; created with the first score of each. */
  readonly #blocks: (Uint32Array | undefined)[] = new Array(BUCKETS / BLOCK_BUCKETS).fill(undefined);
  #rows = 0;
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;
  #mean = 0;
  /** The sum of the squared distances from the mean. */
  #squares = 0;

  /** Adds the first `length` scores. Works in batches: their moments are exact enough and cheap to merge. */
  add(scores: Float64Array, length: number): void {
    if (length === 0) return;
    const blocks = this.#blocks;
    const words = new Uint32Array(scores.buffer, scores.byteOffset, length * 2);
    let min = this.#min;
    let max = this.#max;
    let sum = 0;
    for (let at = 0; at < length; at++) {
      const score = scores[at] as number;
      if (score < min) min = score;
      if (score > max) max = score;
      sum += score;
      const bucket = (words[at * 2 + 1] as number) >>> SHIFT; // the upper word: every platform of Node is little-endian
      let block = blocks[bucket >>> MANTISSA_BITS];
      if (block === undefined) {
        block = new Uint32Array(BLOCK_BUCKETS);
        blocks[bucket >>> MANTISSA_BITS] = block;
      }
      const place = bucket & (BLOCK_BUCKETS - 1);
      block[place] = (block[place] as number) + 1;
    }
    this.#min = min;
    this.#max = max;
    this.#addMoments(scores, length, sum / length);
  }

  /** Merges means and squares of two parts without subtracting large sums (Chan, Golub, LeVeque). */
  #addMoments(scores: Float64Array, length: number, mean: number): void {
    let squares = 0;
    for (let at = 0; at < length; at++) {
      const distance = (scores[at] as number) - mean;
      squares += distance * distance;
    }
    const rows = this.#rows + length;
    const distance = mean - this.#mean;
    this.#squares += squares + distance * distance * ((this.#rows * length) / rows);
    this.#mean += distance * (length / rows);
    this.#rows = rows;
  }

  get summary(): ProfileSummary {
    const deciles = this.#deciles();
    return {
      rows: this.#rows,
      min: finite(this.#min),
      max: finite(this.#max),
      mean: finite(this.#rows === 0 ? Number.NaN : this.#mean),
      stddev: finite(this.#rows === 0 ? Number.NaN : Math.sqrt(this.#squares / this.#rows)),
      deciles,
      binShares: this.binShares(deciles),
    };
  }

  /** The shares of rows in the bins between the deciles of this or another profile; they add up to 1. */
  binShares(deciles: readonly number[]): number[] {
    const edges = [...new Set(deciles.map(placeOfScore))];
    const shares = new Array<number>(edges.length + 1).fill(0);
    let bin = 0;
    for (const bucket of this.#filledBuckets()) {
      while (bin < edges.length && placeOf(bucket) > (edges[bin] as number)) bin++; // a bin includes its upper edge
      shares[bin] = (shares[bin] as number) + this.#countOf(bucket) / this.#rows;
    }
    return shares;
  }

  #deciles(): number[] {
    if (this.#rows === 0) return [];
    const ranks = DECILES.map((decile) => Math.ceil((this.#rows * decile) / 10));
    const deciles: number[] = [];
    let passed = 0;
    for (const bucket of this.#filledBuckets()) {
      passed += this.#countOf(bucket);
      while (deciles.length < ranks.length && passed >= (ranks[deciles.length] as number)) {
        deciles.push(lowerEdgeOf(bucket));
      }
    }
    return deciles;
  }

  #countOf(bucket: number): number {
    return this.#blocks[bucket >>> MANTISSA_BITS]?.[bucket & (BLOCK_BUCKETS - 1)] ?? 0;
  }

  /** From the lowest scores to the highest; of negative scores, a higher bucket holds lower ones. */
  #filledBuckets(): number[] {
    const filled: number[] = [];
    for (let bucket = BUCKETS - 1; bucket >= NEGATIVE; bucket--) {
      if (this.#countOf(bucket) !== 0) filled.push(bucket);
    }
    for (let bucket = 0; bucket < NEGATIVE; bucket++) {
      if (this.#countOf(bucket) !== 0) filled.push(bucket);
    }
    return filled;
  }
}

/**
 * Population stability index: the sum of (found − expected) · ln(found / expected) over the bins. By
 * convention, below 0.1 nothing has changed, and from 0.25 on the population is a different one.
 */
export function stabilityIndex(expectedShares: readonly number[], foundShares: readonly number[]): number {
  if (expectedShares.length !== foundShares.length) {
    throw new RangeError(
      `Shares of ${expectedShares.length} and of ${foundShares.length} bins cannot be compared.`,
    );
  }
  return expectedShares.reduce((sum, share, bin) => {
    const expected = Math.max(share, SHARE_MIN);
    const found = Math.max(foundShares[bin] as number, SHARE_MIN);
    return sum + (found - expected) * Math.log(found / expected);
  }, 0);
}

const number = new Float64Array(1);
const halves = new Uint32Array(number.buffer);

/** The place of a bucket among all buckets, lowest scores first. */
function placeOf(bucket: number): number {
  return bucket >= NEGATIVE ? NEGATIVE - bucket : bucket;
}

function placeOfScore(score: number): number {
  number[0] = score;
  return placeOf((halves[1] as number) >>> SHIFT);
}

/** The edge of the bucket that is nearer to zero. */
function lowerEdgeOf(bucket: number): number {
  halves[0] = 0;
  halves[1] = bucket << SHIFT;
  return number[0] as number;
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
