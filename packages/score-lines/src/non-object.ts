import { type LineTotals, skipValue } from './attribute-value.ts';
import { excerpt } from './excerpt.ts';
import { LineFault } from './line-fault.ts';

/** Throws what is wrong with a line whose first byte that is no whitespace, at `at`, opens no object. */
export function refuseNonObject(bytes: Uint8Array, lineStart: number, at: number): never {
  refuseByteOrderMark(bytes, lineStart);
  const totals: LineTotals = { writtenDigits: 0 };
  const value = excerpt(bytes, at, skipValue(bytes, at, 0, totals), 60);
  const detail = `Each line must be one JSON object like {"pk":"123","score":100}; this one begins with ${value}.`;
  throw new LineFault('not_an_object', at, detail);
}

function refuseByteOrderMark(bytes: Uint8Array, at: number): void {
  const first = bytes[at];
  const second = bytes[at + 1];
  if (first === 0xef && second === 0xbb && bytes[at + 2] === 0xbf) {
    const detail =
      'The line begins with a byte order mark (EF BB BF). Write the file as UTF-8 without it (in Python encoding="utf-8", not "utf-8-sig"), or take it away with: sed -i "1s/^\\xEF\\xBB\\xBF//" FILE';
    throw new LineFault('byte_order_mark', at, detail);
  }
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    const detail =
      'The line begins with the byte order mark of UTF-16. Write the file as UTF-8 without byte order mark, or convert it with: iconv -f UTF-16 -t UTF-8 FILE';
    throw new LineFault('byte_order_mark', at, detail);
  }
}
