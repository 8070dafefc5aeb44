import { BACKSLASH } from './ascii.ts';

/** From here on a set is faster than comparing with each, and keeps a line of 100,000 keys from costing minutes. */
const COMPARED_KEYS_MAX = 16;

/** The keys of one object, to find one that stands twice however it is escaped. A span is a string with its quotes. */
export class SeenKeys {
  readonly #bytes: Uint8Array;
  readonly #spans: number[] = [];
  #names: Set<string> | undefined;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** False when the key was there already. */
  add(start: number, end: number): boolean {
    if (this.#names === undefined) {
      if (this.#spans.length < 2 * COMPARED_KEYS_MAX && !hasEscape(this.#bytes, start, end)) {
        if (this.#holdsSpan(start, end)) return false;
        this.#spans.push(start, end);
        return true;
      }
      this.#names = this.#decodeSpans();
    }
    const sizeBefore = this.#names.size;
    return this.#names.add(decodeString(this.#bytes, start, end)).size > sizeBefore;
  }

  #holdsSpan(start: number, end: number): boolean {
    const spans = this.#spans;
    for (let index = 0; index < spans.length; index += 2) {
      const other = spans[index] as number;
      if ((spans[index + 1] as number) - other !== end - start) continue;
      let same = 1;
      while (same < end - start && this.#bytes[other + same] === this.#bytes[start + same]) same++;
      if (same === end - start) return true;
    }
    return false;
  }

  #decodeSpans(): Set<string> {
    const names = new Set<string>();
    const spans = this.#spans;
    for (let index = 0; index < spans.length; index += 2) {
      names.add(decodeString(this.#bytes, spans[index] as number, spans[index + 1] as number));
    }
    return names;
  }
}

export function hasEscape(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if (bytes[at] === BACKSLASH) return true;
  }
  return false;
}

/** The value of a string that `skipString` has passed; nothing in it is left for JSON.parse to alter. */
export function decodeString(bytes: Uint8Array, start: number, end: number): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8');
  return JSON.parse(text) as string;
}
