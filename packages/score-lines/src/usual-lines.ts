import type { CopyRows } from './copy-rows.ts';
import { PK_BYTES_MAX } from './exact-line.ts';
import { EXACT_DIGITS_MAX, numberOf, PLAIN_SCORE_BYTES_MAX, POWERS_OF_TEN } from './numbers.ts';

// Copies of imported constants: V8 loads an imported one each time it is read (12 instead of 19 M lines/s).
const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const POINT = 0x2e;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const DELETE = 0x7f;
const PK_BYTES = PK_BYTES_MAX;
const SCORE_BYTES = PLAIN_SCORE_BYTES_MAX;
const EXACT_DIGITS = EXACT_DIGITS_MAX;
const POWERS = POWERS_OF_TEN;
/** Every platform of Node is little-endian; COPY is big-endian. */
const double = new Float64Array(1);
const doubleBytes = new Uint8Array(double.buffer);

/**
 * The fast path: writes the rows of lines like `{ "pk": "123", "score": "100" }`, with or without single
 * spaces, with or without quotes around pk and score, and stops at the first line of another form. Returns
 * the start of that line, or `end`. The byte before `end` must be a newline: every loop stops there, so that
 * none checks for the end. It accepts only lines that `writeExactLine` accepts, and writes the same bytes for
 * them.
 *
 * One long function, for speed: every byte of a billion lines passes through it.
 */
export function writeUsualLines(
  bytes: Uint8Array,
  start: number,
  end: number,
  rows: CopyRows,
  maxLineBytes: number,
): number {
  rows.reserve(end - start);
  const out = rows.bytes;
  const scores = rows.scores;
  let scoreCount = rows.scoreCount;
  let outAt = rows.length;
  let rowCount = 0;
  let lineStart = start;

  while (lineStart < end) {
    let at = lineStart;
    if (bytes[at] !== OPEN_BRACE) break;
    if (bytes[++at] === SPACE) at++;
    // "pk":
    if (bytes[at] !== QUOTE || bytes[at + 1] !== 0x70 || bytes[at + 2] !== 0x6b) break;
    if (bytes[at + 3] !== QUOTE || bytes[at + 4] !== COLON) break;
    at += 5;
    if (bytes[at] === SPACE) at++;

    let pkStart = at;
    let pkEnd: number;
    let byte = bytes[at] as number;
    if (byte === QUOTE) {
      pkStart++;
      do byte = bytes[++at] as number;
      while (byte >= SPACE && byte < DELETE && byte !== QUOTE && byte !== BACKSLASH);
      if (byte !== QUOTE) break;
      pkEnd = at++;
    } else {
      if (byte === MINUS) byte = bytes[++at] as number;
      const firstDigit = byte;
      while (byte >= DIGIT_0 && byte <= DIGIT_9) byte = bytes[++at] as number;
      if (firstDigit === DIGIT_0 || bytes[at - 1] === MINUS) break;
      pkEnd = at;
    }
    if (pkEnd === pkStart || pkEnd - pkStart > PK_BYTES) break;

    if (bytes[at] !== COMMA) break;
    if (bytes[++at] === SPACE) at++;
    // "score":
    if (bytes[at] !== QUOTE || bytes[at + 1] !== 0x73 || bytes[at + 2] !== 0x63) break;
    if (bytes[at + 3] !== 0x6f || bytes[at + 4] !== 0x72 || bytes[at + 5] !== 0x65) break;
    if (bytes[at + 6] !== QUOTE || bytes[at + 7] !== COLON) break;
    at += 8;
    if (bytes[at] === SPACE) at++;

    const quoted = bytes[at] === QUOTE;
    if (quoted) at++;
    const scoreStart = at;
    byte = bytes[at] as number;
    if (byte === MINUS) byte = bytes[++at] as number;
    if (byte < DIGIT_0 || byte > DIGIT_9) break;
    const firstDigit = byte;
    const digitsStart = at;
    let score = 0;
    let fractionDigits = 0;
    do {
      score = score * 10 + (byte - DIGIT_0);
      byte = bytes[++at] as number;
    } while (byte >= DIGIT_0 && byte <= DIGIT_9 && firstDigit !== DIGIT_0);
    if (byte === POINT) {
      byte = bytes[++at] as number;
      if (byte < DIGIT_0 || byte > DIGIT_9) break;
      const fractionStart = at;
      do {
        score = score * 10 + (byte - DIGIT_0);
        byte = bytes[++at] as number;
      } while (byte >= DIGIT_0 && byte <= DIGIT_9);
      fractionDigits = at - fractionStart;
    }
    if (at - scoreStart > SCORE_BYTES) break;
    if (at - digitsStart > EXACT_DIGITS) score = numberOf(bytes, scoreStart, at);
    else {
      if (fractionDigits > 0) score /= POWERS[fractionDigits] as number;
      if (digitsStart > scoreStart) score = -score;
    }
    if (quoted && bytes[at++] !== QUOTE) break;

    if (bytes[at] === SPACE) at++;
    if (bytes[at] !== CLOSE_BRACE) break;
    if (bytes[++at] === CARRIAGE_RETURN) at++;
    if (bytes[at] !== NEWLINE || at - lineStart > maxLineBytes) break;

    const pkBytes = pkEnd - pkStart;
    double[0] = score;
    out[outAt] = 0;
    out[outAt + 1] = 3; // columns
    out[outAt + 2] = 0;
    out[outAt + 3] = 0;
    out[outAt + 4] = 0;
    out[outAt + 5] = 8; // bytes of the score, the highest byte first
    out[outAt + 6] = doubleBytes[7] as number;
    out[outAt + 7] = doubleBytes[6] as number;
    out[outAt + 8] = doubleBytes[5] as number;
    out[outAt + 9] = doubleBytes[4] as number;
    out[outAt + 10] = doubleBytes[3] as number;
    out[outAt + 11] = doubleBytes[2] as number;
    out[outAt + 12] = doubleBytes[1] as number;
    out[outAt + 13] = doubleBytes[0] as number;
    out[outAt + 14] = 0;
    out[outAt + 15] = 0;
    out[outAt + 16] = pkBytes >> 8;
    out[outAt + 17] = pkBytes;
    outAt += 18;
    for (let pkAt = pkStart; pkAt < pkEnd; pkAt++) out[outAt++] = bytes[pkAt] as number;
    out[outAt] = 0xff; // -1 bytes: no attributes
    out[outAt + 1] = 0xff;
    out[outAt + 2] = 0xff;
    out[outAt + 3] = 0xff;
    outAt += 4;
    scores[scoreCount++] = score;
    rowCount++;
    lineStart = at + 1;
  }

  rows.length = outAt;
  rows.scoreCount = scoreCount;
  rows.rowCount += rowCount;
  return lineStart;
}
