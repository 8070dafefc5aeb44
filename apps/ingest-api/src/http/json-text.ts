import { IngestError } from '../errors.ts';

/** Deeper than any body needs: `source` of a manifest may have 32 levels. */
const MOST_LEVELS = 40;
/** The elements of an array are parsed in slices of at least this size, and of little more. */
const SLICE_BYTES = 32 * 1024;
/**
 * One element of the array: the entry of a file has less than 4 KiB, even with every character of its name
 * escaped.
 */
const MOST_ELEMENT_BYTES = 16 * 1024;
/** Everything but the array. */
const MOST_REST_BYTES = 256 * 1024;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Parses the text of one object that has one long array, while the text arrives. The elements of the array go
 * to `each` in slices: neither the text nor the parsed array is ever in memory as a whole, and no step blocks
 * other requests for long. The rest is the object with an empty array.
 */
export class LongArray {
  readonly #shape: JsonShape;
  readonly #each: (elements: readonly unknown[]) => void;
  readonly #rest = new GrowingBuffer(
    MOST_REST_BYTES,
    `It has more than ${MOST_REST_BYTES} bytes besides its files`,
  );
  readonly #slice = new GrowingBuffer(
    SLICE_BYTES + MOST_ELEMENT_BYTES,
    `An element of an array has more than ${MOST_ELEMENT_BYTES} bytes`,
  );
  #isInArray = false;
  #hadArray = false;
  #followsComma = false;

  constructor(mostValues: number, each: (elements: readonly unknown[]) => void) {
    this.#shape = new JsonShape(mostValues);
    this.#each = each;
  }

  read(chunk: Buffer): void {
    let from = 0;
    for (let at = this.#shape.next(chunk, 0, 2); at < chunk.length; at = this.#shape.next(chunk, at + 1, 2)) {
      const { depth } = this.#shape;
      const byte = chunk[at];
      if (!this.#isInArray) {
        if (byte !== OPEN_ARRAY || depth !== 2) continue;
        if (this.#hadArray)
          throw invalid('It has more than one array at its top level; only `files` may be one');
        this.#rest.add(chunk.subarray(from, at + 1));
        from = at + 1;
        this.#isInArray = true;
        this.#hadArray = true;
      } else if (byte === COMMA) {
        if (this.#slice.bytes + at - from < SLICE_BYTES) continue;
        this.#slice.add(chunk.subarray(from, at));
        from = at + 1;
        this.#parseSlice(true);
      } else if (depth < 2) {
        this.#slice.add(chunk.subarray(from, at));
        from = at;
        this.#parseSlice(false);
        this.#isInArray = false;
      }
    }
    (this.#isInArray ? this.#slice : this.#rest).add(chunk.subarray(from));
  }

  /** @returns the object, with an empty array in place of the long one. */
  end(): unknown {
    if (this.#isInArray) throw invalid('It ends in the middle of an array');
    return parseJson(this.#rest.take());
  }

  #parseSlice(endsWithComma: boolean): void {
    const elements = parseJson(this.#slice.take(), '[', ']') as unknown[];
    // `[1, 2,]` cut after its last comma gives `[1, 2]` and `[]`: each slice is JSON, the whole is not.
    if (elements.length === 0 && (endsWithComma || this.#followsComma))
      throw invalid('An array has a comma without an element next to it');
    this.#followsComma = endsWithComma;
    this.#each(elements);
  }
}

/**
 * Limits the depth and the number of values of JSON while its bytes arrive, before anything is built from
 * them. It does not validate: `JSON.parse` does.
 */
export class JsonShape {
  readonly #mostValues: number;
  #values = 1;
  #isInString = false;
  #isEscaped = false;
  depth = 0;

  constructor(mostValues: number) {
    this.#mostValues = mostValues;
  }

  /**
   * Reads from the byte at `from` to the next bracket or comma outside of strings that is not deeper than
   * `level`, and sets `depth` to the depth after it. Without a `level` it reads the whole chunk.
   *
   * @returns the index of that byte, or the length of the chunk when there is none.
   */
  next(chunk: Uint8Array, from = 0, level = Number.NEGATIVE_INFINITY): number {
    for (let at = from; at < chunk.length; at += 1) {
      const byte = chunk[at];
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (byte === BACKSLASH) this.#isEscaped = true;
        else if (byte === QUOTE) this.#isInString = false;
      } else if (byte === QUOTE) this.#isInString = true;
      else if (byte === COMMA) {
        this.#count();
        if (this.depth <= level) return at;
      } else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
        this.#count();
        this.depth += 1;
        if (this.depth > MOST_LEVELS) throw invalid(`It is nested deeper than ${MOST_LEVELS} levels`);
        if (this.depth <= level) return at;
      } else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) {
        this.depth -= 1;
        if (this.depth < level) return at;
      }
    }
    return chunk.length;
  }

  /** Each value but the first follows a comma, or the bracket of an array or object. */
  #count(): void {
    this.#values += 1;
    if (this.#values > this.#mostValues) throw invalid(`It has more than ${this.#mostValues} values`);
  }
}

/** Pieces of a text in one buffer that doubles when it is full: a body may arrive in pieces of one byte. */
export class GrowingBuffer {
  readonly #mostBytes: number;
  readonly #tooMany: string;
  #buffer = Buffer.alloc(0);
  bytes = 0;

  constructor(mostBytes: number, tooMany: string) {
    this.#mostBytes = mostBytes;
    this.#tooMany = tooMany;
  }

  add(piece: Buffer): void {
    const bytes = this.bytes + piece.length;
    if (bytes > this.#mostBytes) throw invalid(this.#tooMany);
    if (bytes > this.#buffer.length) {
      const larger = Buffer.alloc(Math.min(this.#mostBytes, Math.max(bytes, 2 * this.#buffer.length, 1024)));
      this.#buffer.copy(larger, 0, 0, this.bytes);
      this.#buffer = larger;
    }
    piece.copy(this.#buffer, this.bytes);
    this.bytes = bytes;
  }

  /** All pieces, valid until the next `add`. The buffer is empty afterwards. */
  take(): Buffer {
    const taken = this.#buffer.subarray(0, this.bytes);
    this.bytes = 0;
    return taken;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * @throws a 400 for bytes that are not UTF-8 (a replacement character would change the text), or not JSON.
 */
export function parseJson(bytes: Uint8Array, before = '', after = ''): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (error) {
    throw invalid('It is not UTF-8', error);
  }
  try {
    return JSON.parse(before + text + after);
  } catch (error) {
    throw invalid(`It is not JSON: ${(error as Error).message.slice(0, 200)}`, error);
  }
}

function invalid(what: string, cause?: unknown): IngestError {
  return new IngestError('invalid_request', `The request body is not valid. ${what}.`, { cause });
}
