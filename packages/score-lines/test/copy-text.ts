export interface CopiedRow {
  readonly score: string;
  readonly pk: string;
  readonly attributes: string | null;
}

const ESCAPED: Record<string, string> = { t: '\t', n: '\n', r: '\r', '\\': '\\' };

/** Reads COPY's text format as its documentation describes it, and nothing that the scanner should not write. */
export function readCopyText(output: string): CopiedRow[] {
  if (output === '') return [];
  if (!output.endsWith('\n')) throw new Error('The COPY text does not end with a newline.');
  return output
    .slice(0, -1)
    .split('\n')
    .map((row) => {
      const [score, pk, attributes, ...more] = row.split('\t');
      if (score === undefined || pk === undefined || attributes === undefined || more.length > 0) {
        throw new Error(`The row has not three columns: ${JSON.stringify(row)}`);
      }
      return {
        score: unescapeField(score),
        pk: unescapeField(pk),
        attributes: attributes === '\\N' ? null : unescapeField(attributes),
      };
    });
}

function unescapeField(field: string): string {
  if (field.includes('\r')) throw new Error('A raw carriage return stands in the COPY text.');
  return field.replace(/\\(.?)/gs, (_, letter: string) => {
    const character = ESCAPED[letter];
    if (character === undefined) throw new Error(`COPY text with the escape \\${letter}`);
    return character;
  });
}
