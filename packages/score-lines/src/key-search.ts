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

/** In a row of COPY's binary format: behind the columns' number and the score with its length. */
const PK_LENGTH_AT = 14;

/** The pk of the row that begins there. */
export function keyOfRow(rows: Buffer, start: number): string {
  const pkStart = start + PK_LENGTH_AT + 4;
  return rows.toString('utf8', pkStart, pkStart + rows.readInt32BE(start + PK_LENGTH_AT));
}
