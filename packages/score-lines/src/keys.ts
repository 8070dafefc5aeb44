// The keys of rows: where the key is in a row as `CopyRows` writes it, rows with certain keys, rows in the
// order of keys.

/** After the number of columns, and the score with its length. */
const PK_LENGTH_AT = 14;
const LENGTH_BYTES = 4;
const PK_AT = PK_LENGTH_AT + LENGTH_BYTES;

/** The pk of the row that begins at `start`. */
export function keyOfRow(rows: Buffer, start: number): string {
  const pkStart = start + PK_AT;
  return rows.toString('utf8', pkStart, pkStart + rows.readInt32BE(start + PK_LENGTH_AT));
}

/** A search for the lines of certain keys. */
export interface KeySearch {
  readonly keys: ReadonlySet<string>;
  /** Called for each row whose pk is one of `keys`, in the order of the file. */
  onFound(found: FoundKey): void;
}

export interface FoundKey {
  readonly pk: string;
  /** 1-based, within the file. */
  readonly line: number;
  /** 0-based, of the line's first byte. */
  readonly byteOffset: number;
  /** The beginning of the line, as in `RejectedLine`. */
  readonly excerpt: string;
}

/** Rows are sorted by 32 bits of their keys, in three passes of 11 bits. */
const PASSES = 3;
const PASS_BITS = 11;
const BUCKETS = 1 << PASS_BITS;
const FIRST_ROWS_MAX = 8192;

/**
 * Sorts each piece of rows by their keys: PostgreSQL then builds the index in about three quarters of the
 * time that it needs for random order (docs/performance.md), and a piece of 1 MiB is sorted within the
 * processor's cache.
 *
 * Nothing but this time depends on the order. Rows are compared by four bytes only, the first four after the
 * beginning that all keys of the piece share. The rows themselves do not change.
 */
export class KeyOrder {
  /** The start of each row, and the end of the last one. */
  #starts: Uint32Array = new Uint32Array(FIRST_ROWS_MAX);
  #entries = entries(FIRST_ROWS_MAX);
  #spareEntries = entries(FIRST_ROWS_MAX);
  /**
   * For each pass and digit: the number of keys with that digit, then the place for the next of these keys.
   */
  readonly #buckets = new Uint32Array(PASSES * BUCKETS);

  /** Returns the sorted rows in a new buffer, or `rows` itself when it is already in order. */
  sort(rows: Buffer): Buffer {
    const view = new DataView(rows.buffer, rows.byteOffset, rows.length);
    const count = this.#findRows(view);
    if (this.#readKeys(view, count)) return rows;
    this.#sortEntries(count);
    return this.#gather(view, count);
  }

  #findRows(rows: DataView): number {
    let starts = this.#starts;
    let count = 0;
    for (let at = 0; at < rows.byteLength; ) {
      starts[count++] = at;
      if (count === starts.length) starts = this.#grow();
      at += PK_AT + rows.getInt32(at + PK_LENGTH_AT);
      const attributesBytes = rows.getInt32(at);
      at += LENGTH_BYTES;
      if (attributesBytes > 0) at += attributesBytes; // -1: no attributes
    }
    starts[count] = rows.byteLength;
    return count;
  }

  #grow(): Uint32Array {
    const starts = new Uint32Array(this.#starts.length * 2);
    starts.set(this.#starts);
    this.#starts = starts;
    this.#entries = entries(starts.length);
    this.#spareEntries = entries(starts.length);
    return starts;
  }

  /** Returns true when the keys are already in order. */
  #readKeys(view: DataView, count: number): boolean {
    const starts = this.#starts;
    const { keys, rows } = this.#entries;
    const keyAt = PK_AT + sharedBytes(view, starts, count);
    let isInOrder = true;
    let previous = 0;
    for (let row = 0; row < count; row++) {
      // For a short pk this reads past its end, into the length that follows.
      const key = view.getUint32((starts[row] as number) + keyAt);
      if (key < previous) isInOrder = false;
      previous = key;
      keys[row] = key;
      rows[row] = row;
    }
    return isInOrder;
  }

  /** A radix sort, lowest digit first: each pass keeps the order of equal digits. */
  #sortEntries(count: number): void {
    const buckets = this.#buckets.fill(0);
    const { keys } = this.#entries;
    for (let index = 0; index < count; index++) {
      const key = keys[index] as number;
      for (let pass = 0; pass < PASSES; pass++) {
        const bucket = bucketOf(key, pass);
        buckets[bucket] = (buckets[bucket] as number) + 1;
      }
    }
    for (let pass = 0; pass < PASSES; pass++) {
      turnSizesIntoStarts(buckets, pass);
      const from = this.#entries;
      const to = this.#spareEntries;
      const { keys: toKeys, rows: toRows } = to;
      const { keys, rows } = from;
      for (let index = 0; index < count; index++) {
        const key = keys[index] as number;
        const bucket = bucketOf(key, pass);
        const place = buckets[bucket] as number;
        buckets[bucket] = place + 1;
        toKeys[place] = key;
        toRows[place] = rows[index] as number;
      }
      this.#entries = to;
      this.#spareEntries = from;
    }
  }

  #gather(from: DataView, count: number): Buffer {
    const gathered = Buffer.allocUnsafeSlow(from.byteLength);
    const to = new DataView(gathered.buffer);
    const starts = this.#starts;
    const { rows } = this.#entries;
    let toAt = 0;
    for (let index = 0; index < count; index++) {
      const row = rows[index] as number;
      const end = starts[row + 1] as number;
      let at = starts[row] as number;
      // Rows are short: copying four bytes at a time is faster than a call of `copy`.
      for (; at + 4 <= end; at += 4, toAt += 4) to.setInt32(toAt, from.getInt32(at));
      for (; at < end; at++, toAt++) to.setUint8(toAt, from.getUint8(at));
    }
    return gathered;
  }
}

interface Entries {
  readonly keys: Uint32Array;
  readonly rows: Uint32Array;
}

function entries(count: number): Entries {
  return { keys: new Uint32Array(count), rows: new Uint32Array(count) };
}

/** The number of bytes that all keys share at their beginning. */
function sharedBytes(view: DataView, starts: Uint32Array, count: number): number {
  let shared = count === 0 ? 0 : view.getInt32(PK_LENGTH_AT);
  for (let row = 1; row < count; row++) {
    const start = starts[row] as number;
    shared = Math.min(shared, view.getInt32(start + PK_LENGTH_AT));
    let same = 0;
    while (same < shared && view.getUint8(start + PK_AT + same) === view.getUint8(PK_AT + same)) same++;
    shared = same;
  }
  return shared;
}

function bucketOf(key: number, pass: number): number {
  return pass * BUCKETS + ((key >>> (pass * PASS_BITS)) & (BUCKETS - 1));
}

function turnSizesIntoStarts(buckets: Uint32Array, pass: number): void {
  let start = 0;
  for (let bucket = pass * BUCKETS; bucket < (pass + 1) * BUCKETS; bucket++) {
    const size = buckets[bucket] as number;
    buckets[bucket] = start;
    start += size;
  }
}
