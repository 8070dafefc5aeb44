import { CLOSE_BRACE, COLON, COMMA, OPEN_BRACE, QUOTE } from './ascii.ts';
import { type LineTotals, refuseRepeated, skipValue } from './attribute-value.ts';
import type { CopyRows } from './copy-rows.ts';
import { excerpt } from './excerpt.ts';
import { skipByte, skipString, skipWhitespace } from './json-syntax.ts';
import { LineFault } from './line-fault.ts';
import { type Field, readPk, readScore } from './line-fields.ts';
import { refuseNonObject } from './non-object.ts';
import { numberOf } from './score-text.ts';
import { decodeString, hasEscape, SeenKeys } from './seen-keys.ts';
import { unexpectedByte } from './unexpected-byte.ts';

/**
 * Reads any line, from `start` to the newline at `end`, and writes its row. False for a blank line; throws a
 * LineFault, with nothing written, when there is something wrong with it.
 */
export function writeExactLine(bytes: Uint8Array, start: number, end: number, rows: CopyRows): boolean {
  const objectStart = skipWhitespace(bytes, start);
  if (objectStart === end) return false;
  if (bytes[objectStart] !== OPEN_BRACE) refuseNonObject(bytes, start, objectStart);

  const totals: LineTotals = { writtenDigits: 0 };
  const attributeSpans: number[] = [];
  let attributeKeys: SeenKeys | undefined;
  let pk: Field | undefined;
  let score: Field | undefined;

  let at = skipWhitespace(bytes, objectStart + 1);
  while (bytes[at] !== CLOSE_BRACE) {
    if (bytes[at] !== QUOTE) throw unexpectedByte(bytes, at, 'a key in double quotes');
    const keyStart = at;
    const keyEnd = skipString(bytes, at);
    at = skipWhitespace(bytes, keyEnd);
    at = skipWhitespace(bytes, skipByte(bytes, at, COLON, 'a colon after the key'));
    if (isKey(bytes, keyStart, keyEnd, 'pk')) {
      if (pk !== undefined) throw givenTwice('duplicate_pk_key', keyStart, 'pk');
      pk = readPk(bytes, at, totals);
      at = pk.next;
    } else if (isKey(bytes, keyStart, keyEnd, 'score')) {
      if (score !== undefined) throw givenTwice('duplicate_score_key', keyStart, 'score');
      score = readScore(bytes, at, totals);
      at = score.next;
    } else {
      attributeKeys ??= new SeenKeys(bytes);
      refuseRepeated(attributeKeys, bytes, keyStart, keyEnd);
      at = skipValue(bytes, at, 1, totals);
      attributeSpans.push(keyStart, at);
    }
    at = skipWhitespace(bytes, at);
    if (bytes[at] === CLOSE_BRACE) break;
    at = skipWhitespace(bytes, skipByte(bytes, at, COMMA, 'a comma or a closing brace'));
    if (bytes[at] === CLOSE_BRACE) throw unexpectedByte(bytes, at, 'a key in double quotes');
  }
  at = skipWhitespace(bytes, at + 1);
  if (at !== end) throw unexpectedByte(bytes, at, 'the end of the line after its object');
  if (pk === undefined) throw missing('missing_pk', 'pk', bytes, start, attributeSpans);
  if (score === undefined) throw missing('missing_score', 'score', bytes, start, attributeSpans);

  rows.beginRow(numberOf(score.source, score.start, score.end));
  rows.writeText(pk.source, pk.start, pk.end);
  if (attributeSpans.length === 0) rows.writeNull();
  else rows.writeObject(bytes, attributeSpans);
  return true;
}

const SHOWN_KEYS = 5;

/** Names what the line has instead: often it is the key, in capitals or under another name. */
function missing(
  code: 'missing_pk' | 'missing_score',
  name: string,
  bytes: Uint8Array,
  lineStart: number,
  attributeSpans: readonly number[],
): LineFault {
  const starts = attributeSpans.filter((_, index) => index % 2 === 0);
  const keys = starts.map((start) => excerpt(bytes, start, skipString(bytes, start), 60));
  const shown = keys.slice(0, SHOWN_KEYS).join(', ');
  const more = keys.length > SHOWN_KEYS ? ` and ${keys.length - SHOWN_KEYS} more keys` : '';
  const has = keys.length === 0 ? '' : ` It has ${shown}${more}.`;
  const otherCase = keys.find((key) => key.toLowerCase() === `"${name}"`);
  const hint = otherCase === undefined ? '' : ` Keys are case-sensitive: write "${name}", not ${otherCase}.`;
  return new LineFault(code, lineStart, `The line has no "${name}".${has}${hint}`);
}

/** What an escape adds to a string: \u006b for k. */
const ESCAPE_EXTRA_BYTES = 5;

/** Whether the string, quotes included, is `name`, which may be written with escapes ("p\u006b"). */
function isKey(bytes: Uint8Array, start: number, end: number, name: 'pk' | 'score'): boolean {
  const extraBytes = end - start - 2 - name.length;
  if (extraBytes >= ESCAPE_EXTRA_BYTES) {
    return hasEscape(bytes, start, end) && decodeString(bytes, start, end) === name;
  }
  if (extraBytes !== 0) return false;
  for (let index = 0; index < name.length; index++) {
    if (bytes[start + 1 + index] !== name.charCodeAt(index)) return false;
  }
  return true;
}

function givenTwice(code: 'duplicate_pk_key' | 'duplicate_score_key', at: number, name: string): LineFault {
  return new LineFault(
    code,
    at,
    `The line gives "${name}" twice; which of the two is meant cannot be known.`,
  );
}
