import type { AttributeSchema } from './attribute-schema.ts';
import { type LineTotals, refuseRepeated, SeenKeys, skipValue } from './attributes.ts';
import type { CopyRows } from './copy-rows.ts';
import {
  CLOSE_BRACE,
  COLON,
  COMMA,
  DIGIT_0,
  DIGIT_9,
  decodeString,
  excerpt,
  hasEscape,
  isDigit,
  MINUS,
  OPEN_BRACE,
  QUOTE,
  skipByte,
  skipNumber,
  skipString,
  skipWhitespace,
  unexpectedByte,
} from './json-syntax.ts';
import { hintOfMissing, hintOfValue, type LineKey } from './likely-cause.ts';
import { isScore, numberOf } from './numbers.ts';
import { LineFault } from './rejects.ts';

/**
 * A B-tree refuses keys from 2,693 bytes on, but only when the primary key is built, after the whole load.
 */
export const PK_BYTES_MAX = 2048;

/**
 * Reads any line, from `start` to the newline at `end`, and writes its row. Returns false for a blank line.
 * Throws a LineFault for a line that gives no row; then nothing is written.
 */
export function writeExactLine(
  bytes: Uint8Array,
  start: number,
  end: number,
  rows: CopyRows,
  schema?: AttributeSchema,
): boolean {
  const objectStart = skipWhitespace(bytes, start);
  if (objectStart === end) return false;
  if (bytes[objectStart] !== OPEN_BRACE) refuseNonObject(bytes, start, objectStart, end);

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
  if (pk === undefined) throw missing('pk', score && 'score', bytes, start, attributeSpans);
  if (score === undefined) throw missing('score', 'pk', bytes, start, attributeSpans);

  schema?.check(bytes, start, attributeSpans);

  rows.beginRow(numberOf(score.source, score.start, score.end));
  rows.writeText(pk.source, pk.start, pk.end);
  if (attributeSpans.length === 0) rows.writeNull();
  else rows.writeObject(bytes, attributeSpans);
  return true;
}

/** What begins on an earlier line, by the byte that ends it. */
const ENDS: Readonly<Record<string, string>> = {
  ']': "This is the end of a JSON array: write one object per line, or convert the file with jq -c '.[]' FILE.",
  '}': 'This is the end of an object on several lines: write each object on one line, or convert the file with jq -c . FILE.',
};

/** Throws what is wrong with a line that is not an object; `at` is its first byte that is not whitespace. */
function refuseNonObject(bytes: Uint8Array, lineStart: number, at: number, lineEnd: number): never {
  refuseByteOrderMark(bytes, lineStart);
  const rule = 'Each line must be one JSON object such as {"pk":"123","score":100}';
  try {
    const valueEnd = skipValue(bytes, at, 0, { writtenDigits: 0 });
    const isObject = bytes[at] === QUOTE && bytes[at + 1] === OPEN_BRACE;
    const hint = isObject ? ' This is an object within a string: json.dumps was called twice.' : '';
    const foundEnd = skipWhitespace(bytes, valueEnd) === lineEnd ? valueEnd : lineEnd;
    throw new LineFault('not_an_object', at, `${rule}; found ${excerpt(bytes, at, foundEnd, 60)}.${hint}`);
  } catch (fault) {
    // Text that is no JSON at all: what was found is the line, and not its first byte.
    if (!(fault instanceof LineFault) || fault.code !== 'invalid_json' || fault.at !== at) throw fault;
    const hint =
      /^Expected .*?\. (.*)$/s.exec(fault.detail)?.[1] ??
      ENDS[String.fromCharCode(bytes[at] ?? 0)] ??
      'A message of a program does not belong in the file.';
    throw new LineFault('invalid_json', at, `${rule}; found ${excerpt(bytes, at, lineEnd, 60)}. ${hint}`);
  }
}

function refuseByteOrderMark(bytes: Uint8Array, at: number): void {
  const first = bytes[at];
  const second = bytes[at + 1];
  if (first === 0xef && second === 0xbb && bytes[at + 2] === 0xbf) {
    const detail =
      'The line begins with a byte order mark (EF BB BF). Write the file as UTF-8 without it (in Python encoding="utf-8", not "utf-8-sig"), or remove it with: sed -i "1s/^\\xEF\\xBB\\xBF//" FILE';
    throw new LineFault('byte_order_mark', at, detail);
  }
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    const detail =
      'The line begins with a byte order mark of UTF-16. Write the file as UTF-8 without a byte order mark, or convert it with: iconv -f UTF-16 -t UTF-8 FILE';
    throw new LineFault('byte_order_mark', at, detail);
  }
}

/** The bytes that an escape adds to a string: \u006b instead of k. */
const ESCAPE_EXTRA_BYTES = 5;

/** Whether the string, whose span includes its quotes, is `name`, with or without escapes ("p\u006b"). */
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

/** The text for a column, and the index after the value in the line. */
interface Field {
  readonly source: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly next: number;
}

/** `pk` is a string that is not empty, or an integer, whose digits stay as they are in the line. */
function readPk(bytes: Uint8Array, at: number, totals: LineTotals): Field {
  const pk = readText(bytes, at, totals);
  const kept = pk !== undefined && (bytes[at] === QUOTE ? pk.end > pk.start : isInteger(bytes, pk));
  if (!kept) {
    const rule = 'pk must be a string that is not empty, or an integer without fraction and exponent';
    throw invalidValue('invalid_pk', 'pk', rule, bytes, at, totals);
  }
  const sizeBytes = pk.end - pk.start;
  if (sizeBytes > PK_BYTES_MAX) {
    const detail = `pk is ${sizeBytes} bytes long; the limit is ${PK_BYTES_MAX} bytes.`;
    throw new LineFault('pk_too_long', at, detail);
  }
  return pk;
}

/** `score` is a finite number, or a string that contains one. */
function readScore(bytes: Uint8Array, at: number, totals: LineTotals): Field {
  const score = readText(bytes, at, totals);
  if (score === undefined || !isScore(score.source, score.start, score.end)) {
    const rule =
      'score must be a finite number in the range of double precision, or a string that contains one as JSON writes it';
    throw invalidValue('invalid_score', 'score', rule, bytes, at, totals);
  }
  return score;
}

/** The text of a string or a number; undefined for a value of another kind. */
function readText(bytes: Uint8Array, at: number, totals: LineTotals): Field | undefined {
  const byte = bytes[at];
  if (byte === QUOTE) {
    const next = skipString(bytes, at);
    if (!hasEscape(bytes, at, next)) return { source: bytes, start: at + 1, end: next - 1, next };
    // The newline at which the functions of json-syntax.ts stop.
    const source = Buffer.from(`${decodeString(bytes, at, next)}\n`, 'utf8');
    return { source, start: 0, end: source.length - 1, next };
  }
  if (byte === MINUS || isDigit(byte)) {
    const next = skipNumber(bytes, at);
    return { source: bytes, start: at, end: next, next };
  }
  skipValue(bytes, at, 1, totals);
  return undefined;
}

function isInteger(bytes: Uint8Array, { start, end }: Field): boolean {
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number;
    if ((byte < DIGIT_0 || byte > DIGIT_9) && byte !== MINUS) return false;
  }
  return true;
}

function invalidValue(
  code: 'invalid_pk' | 'invalid_score',
  name: 'pk' | 'score',
  rule: string,
  bytes: Uint8Array,
  at: number,
  totals: LineTotals,
): LineFault {
  const byte = bytes[at];
  const isNumber = byte === MINUS || isDigit(byte);
  const value = excerpt(bytes, at, isNumber ? skipNumber(bytes, at) : skipValue(bytes, at, 1, totals), 60);
  const hint = hintOfValue(name, value);
  return new LineFault(code, at, `${rule}; found ${value}.${hint === '' ? '' : ` ${hint}`}`);
}

function givenTwice(code: 'duplicate_pk_key' | 'duplicate_score_key', at: number, name: string): LineFault {
  return new LineFault(code, at, `The line has the key "${name}" twice. Keep one.`);
}

const SHOWN_KEYS = 5;

/**
 * Names the keys that the line has: often one of them is the missing key, in capitals or under another name.
 */
function missing(
  name: 'pk' | 'score',
  known: 'pk' | 'score' | undefined,
  bytes: Uint8Array,
  lineStart: number,
  attributeSpans: readonly number[],
): LineFault {
  const keys: LineKey[] = [];
  for (let index = 0; index < attributeSpans.length; index += 2) {
    const start = attributeSpans[index] as number;
    const keyEnd = skipString(bytes, start);
    const valueStart = skipWhitespace(bytes, skipWhitespace(bytes, keyEnd) + 1);
    const value = excerpt(bytes, valueStart, attributeSpans[index + 1] as number, 200);
    keys.push({ key: excerpt(bytes, start + 1, keyEnd - 1, 60), value });
  }
  const names = [...(known === undefined ? [] : [known]), ...keys.map(({ key }) => key)];
  const shown = names.slice(0, SHOWN_KEYS).map((key) => `"${key}"`);
  const more = names.length > SHOWN_KEYS ? ` and ${names.length - SHOWN_KEYS} more keys` : '';
  const has = names.length === 0 ? ' It has no keys.' : ` It has ${shown.join(', ')}${more}.`;
  const hint = hintOfMissing(name, keys);
  return new LineFault(
    `missing_${name}`,
    lineStart,
    `The line has no "${name}".${has}${hint === '' ? '' : ` ${hint}`}`,
  );
}
