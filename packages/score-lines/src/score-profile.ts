/** Bits of the mantissa that tell buckets apart: a bucket is at most 1/1024 of its values wide. */
const MANTISSA_BITS = 10;
const SHIFT = 20 - MANTISSA_BITS;
/** Sign, eleven bits of exponent, and the mantissa's first bits. */
const BUCKETS = 2 ** (12 + MANTISSA_BITS);
const NEGATIVE = BUCKETS / 2;
/** The buckets of one sign and exponent. */
const BLOCK_BUCKETS = 2 ** MANTISSA_BITS;
const DECILES = [1, 2, 3, 4, 5, 6, 7, 8, 9];
/** A share of nothing would make the index infinite; one row in 10,000 is the usual floor. */
const SHARE_MIN = 0.0001;

export interface ProfileSummary {
  readonly rows: number;
  /** null: not finite, as there is no row, or a sum is beyond double precision. So for each of them. */
  readonly min: number | null;
  readonly max: number | null;
  readonly mean: number | null;
  readonly stddev: number | null;
  /** Nine scores; none when there is no row. Each at most 0.1 % of its value nearer to zero than the true one. */
  readonly deciles: readonly number[];
  /** The share of rows in each bin: up to the first decile, …, above the last. Equal deciles cut once. */
  readonly binShares: readonly number[];
}

/**
 * What the scores of a run look like, from the one pass that reads them: count, extremes, mean and standard
 * deviation, and a histogram, whose buckets are the first bits of the numbers themselves (sign, exponent, ten
 * bits of the mantissa). Each sign and exponent that occurs takes 4 KiB, all of them 16 MiB. Integers up to 1,024 and their like fall into buckets of their own, so that their
 * deciles are exact.
 */
export class ScoreProfile {
  /** By sign and exponent, made when the first of them comes. */
  readonly #blocks: (Uint32Array | undefined)[] = new Array(BUCKETS / BLOCK_BUCKETS).fill(undefined);
  #rows = 0;
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;
  #mean = 0;
  /** The sum of the squared distances from the mean. */
  #squares = 0;

  /** Adds the first `length` scores. In batches, as moments of a batch are exact enough and cheap to merge. */
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
      const bucket = (words[at * 2 + 1] as number) >>> SHIFT; // the upper word, as every platform of Node's is little-endian
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

  /** Chan, Golub, LeVeque: merges means and squares of two parts without taking the difference of large sums. */
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

  /** How the rows fall into the bins that the deciles of this or another profile cut; they add up to 1. */
  binShares(deciles: readonly number[]): number[] {
    const edges = [...new Set(deciles.map(placeOfScore))];
    const shares = new Array<number>(edges.length + 1).fill(0);
    let bin = 0;
    for (const bucket of this.#filledBuckets()) {
      while (bin < edges.length && placeOf(bucket) > (edges[bin] as number)) bin++; // a bin holds its upper edge
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

  /** From the lowest numbers to the highest: the magnitude of negative ones grows with their bucket. */
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
 * Population stability index: the sum of (found − expected) · ln(found / expected) over the bins. By custom,
 * below 0.1 nothing has changed, from 0.25 on the population is another one.
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

/** The place of a bucket among all, the lowest numbers first. */
function placeOf(bucket: number): number {
  return bucket >= NEGATIVE ? NEGATIVE - bucket : bucket;
}

function placeOfScore(score: number): number {
  number[0] = score;
  return placeOf((halves[1] as number) >>> SHIFT);
}

/** The end of the bucket that is nearer to zero. */
function lowerEdgeOf(bucket: number): number {
  halves[0] = 0;
  halves[1] = bucket << SHIFT;
  return number[0] as number;
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
