import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';

const PIECE_ROWS = 20_000;

/**
 * The `index`th of `count` different keys, in an order that looks random to an index: a bijection of the
 * numbers below the next power of two (odd multiplications and shifts), walked until it falls below `count`.
 */
export function scatteredKey(index: number, count: number): number {
  const bits = Math.max(1, Math.ceil(Math.log2(count)));
  const mask = bits >= 32 ? 0xffffffff : 2 ** bits - 1;
  let key = index;
  do {
    key = (Math.imul(key, 0x9e3779b1) & mask) >>> 0;
    key = (key ^ (key >>> (bits >> 1))) >>> 0;
    key = (Math.imul(key, 0x85ebca6b) & mask) >>> 0;
    key = (key ^ (key >>> ((bits >> 1) + 1))) >>> 0;
  } while (key >= count);
  return key;
}

export type KeyOrder = 'random' | 'sorted';

export interface ScoreFile {
  readonly rows: number;
  readonly bytes: number;
  readonly sha256: string;
}

/** Writes `{ "pk": "…", "score": "…" }` lines, always the same for the same arguments. */
export async function writeScoreFile(path: string, rows: number, order: KeyOrder): Promise<ScoreFile> {
  return writeRows(path, rows, order, (key, score) => `{ "pk": "${key}", "score": "${score}" }\n`);
}

/** The same rows as the text that COPY takes: score, pk, attributes. */
export async function writeCopyText(path: string, rows: number, order: KeyOrder): Promise<ScoreFile> {
  return writeRows(path, rows, order, (key, score) => `${score}\t${key}\t\\N\n`);
}

async function writeRows(
  path: string,
  rows: number,
  order: KeyOrder,
  format: (key: number, score: number) => string,
): Promise<ScoreFile> {
  const out = createWriteStream(path);
  const hash = createHash('sha256');
  let bytes = 0;
  for (let start = 0; start < rows; start += PIECE_ROWS) {
    let text = '';
    for (let i = start; i < Math.min(rows, start + PIECE_ROWS); i += 1) {
      const key = order === 'random' ? scatteredKey(i, rows) : i;
      text += format(key + 100_000_000, key % 1000);
    }
    const piece = Buffer.from(text, 'latin1');
    hash.update(piece);
    bytes += piece.byteLength;
    await write(out, piece);
  }
  out.end();
  await once(out, 'close');
  return { rows, bytes, sha256: hash.digest('hex') };
}

async function write(out: WriteStream, piece: Buffer): Promise<void> {
  if (!out.write(piece)) await once(out, 'drain');
}
