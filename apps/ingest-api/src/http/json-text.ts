import { IngestError } from '../errors.ts';

/** Deeper than any body that is taken: `source` of a manifest may have 32 levels. */
const MOST_LEVELS = 40;
/** The elements of an array are handed on in slices of at least this size, and of little more. */
const SLICE_BYTES = 32 * 1024;
/** One element of the array: a file's entry with every character of its name escaped has less than 4 KiB. */
const MOST_ELEMENT_BYTES = 16 * 1024;
/** Everything but the array. */
const MOST_REST_BYTES = 256 * 1024;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Bounds the shape of JSON while its bytes arrive, before anything is built of them: how deep it is, and how many
 * values it has. It does not validate: `JSON.parse` does, of what has passed here.
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
   * Reads on, from the byte at `from` to the next bracket or comma that is outside of strings and not deeper than
   * `level`, after which `depth` is the new one; to its end without a `level`. @returns where that is; the length of
   * the chunk when there is none.
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

  /** Each value but the first follows a comma, or opens an array or object. */
  #count(): void {
    this.#values += 1;
    if (this.#values > this.#mostValues) throw invalid(`It has more than ${this.#mostValues} values`);
  }
}

/**
 * The text of one object that has one long array, taken apart while it arrives: the array's elements come in slices
 * (`each`), so that neither its text nor its parsed form is there as a whole, and no step takes long. What is left
 * is the object with an empty array.
 */
export class LongArray {
  readonly #shape: JsonShape;
  readonly #each: (elements: readonly unknown[]) => void;
  readonly #rest = new Gathered(
    MOST_REST_BYTES,
    `It has more than ${MOST_REST_BYTES} bytes beside its files`,
  );
  readonly #slice = new Gathered(
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
        if (this.#hadArray) throw invalid('It has more than one array where only `files` is one');
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

  /** @returns the object, with an empty array in the place of the long one. */
  end(): unknown {
    if (this.#isInArray) throw invalid('It ends in the middle of an array');
    return parseJson(this.#rest.take());
  }

  #parseSlice(endsWithComma: boolean): void {
    const elements = parseJson(this.#slice.take(), '[', ']') as unknown[];
    // `[1, 2,]` cut after a comma would be `[1, 2]` and `[]`: each of them is JSON, both together are not.
    if (elements.length === 0 && (endsWithComma || this.#followsComma))
      throw invalid('A comma of an array has no element beside it');
    this.#followsComma = endsWithComma;
    this.#each(elements);
  }
}

/** Bytes that come in pieces, in one buffer that grows: a body may come in pieces of one byte. */
export class Gathered {
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

  /** What has come, until the next `add`; it begins anew then. */
  take(): Buffer {
    const taken = this.#buffer.subarray(0, this.bytes);
    this.bytes = 0;
    return taken;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** @throws a 400 for what is not UTF-8, which must not become another text, and for what is not JSON. */
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
