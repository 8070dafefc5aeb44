import { TAB } from './ascii.ts';

/** Asks where rows with certain keys stand. */
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
  /** The beginning of the line, as of a rejected one. */
  readonly excerpt: string;
}

/** The pk of the row of COPY's text format (score, pk, attributes) that stands there, without its escapes. */
export function keyOfRow(row: Buffer, start: number, end: number): string {
  const pkStart = row.indexOf(TAB, start) + 1;
  const pkEnd = row.indexOf(TAB, pkStart);
  if (pkStart > end || pkEnd > end) throw new RangeError('The row does not hold three columns.');
  const text = row.toString('utf8', pkStart, pkEnd);
  return text.includes('\\') ? text.replace(/\\(.)/g, unescaped) : text;
}

const LETTERS: Readonly<Record<string, string>> = { t: '\t', n: '\n', r: '\r' };

function unescaped(_escape: string, letter: string): string {
  return LETTERS[letter] ?? letter;
}
