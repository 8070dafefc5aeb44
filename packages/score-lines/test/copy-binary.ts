export interface CopiedRow {
  readonly score: number;
  readonly pk: string;
  readonly attributes: string | null;
}

const JSONB_VERSION = 1;

/** Reads rows of COPY's binary format as its documentation describes it, and nothing that the scanner should not write. */
export function readCopyBinary(output: Buffer): CopiedRow[] {
  const rows: CopiedRow[] = [];
  let at = 0;
  const field = (): Buffer | null => {
    const length = output.readInt32BE(at);
    at += 4;
    if (length === -1) return null;
    at += length;
    if (at > output.length) throw new Error('A field ends behind the output.');
    return output.subarray(at - length, at);
  };
  while (at < output.length) {
    const columns = output.readInt16BE(at);
    if (columns !== 3) throw new Error(`The row at ${at} has ${columns} columns.`);
    at += 2;
    const [score, pk, attributes] = [field(), field(), field()];
    if (score?.length !== 8 || pk === null) throw new Error('A row without a double or without a key.');
    if (attributes !== null && attributes[0] !== JSONB_VERSION)
      throw new Error('A jsonb of another version.');
    rows.push({
      score: score.readDoubleBE(0),
      pk: pk.toString('utf8'),
      attributes: attributes === null ? null : attributes.toString('utf8', 1),
    });
  }
  return rows;
}
