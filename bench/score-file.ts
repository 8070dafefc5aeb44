import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import type { Attribute } from 'wire';

const PIECE_ROWS = 20_000;

export type KeyOrder = 'random' | 'sorted';

export interface ScoreFile {
  readonly rows: number;
  readonly bytes: number;
  readonly sha256: string;
}

/** `attributes`: each row also has a decile, a version and two reason codes. */
export type DataSet = 'plain' | 'attributes';

/** Writes `{ "pk": "…", "score": "…" }` lines, always the same for the same arguments. */
export async function writeScoreFile(
  filePath: string,
  rows: number,
  order: KeyOrder,
  data: DataSet = 'plain',
): Promise<ScoreFile> {
  return writeRows(filePath, rows, order, (key, score) => {
    const more = data === 'plain' ? '' : `, ${attributesOf(key)}`;
    return `{ "pk": "${key}", "score": "${score}"${more} }\n`;
  });
}

/** Writes the same rows in COPY's text format: score, pk, attributes. */
export async function writeCopyText(
  filePath: string,
  rows: number,
  order: KeyOrder,
  data: DataSet = 'plain',
): Promise<ScoreFile> {
  return writeRows(filePath, rows, order, (key, score) => {
    const attributes = data === 'plain' ? '\\N' : `{${attributesOf(key)}}`;
    return `${score}\t${key}\t${attributes}\n`;
  });
}

function attributesOf(key: number): string {
  return `"decile": ${(key % 10) + 1}, "version": "2026.11", "reason_1": "R${10 + (key % 23)}", "reason_2": "R${50 + (key % 31)}"`;
}

/** A contract for them. */
export const ATTRIBUTES: readonly Attribute[] = [
  { name: 'decile', type: 'integer', required: true, min: 1, max: 10 },
  { name: 'version', type: 'string', required: true, enum: ['2026.11'] },
  { name: 'reason_1', type: 'string' },
  { name: 'reason_2', type: 'string' },
];

async function writeRows(
  filePath: string,
  rows: number,
  order: KeyOrder,
  format: (key: number, score: number) => string,
): Promise<ScoreFile> {
  const out = createWriteStream(filePath);
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

/**
 * The `index`th of `count` distinct keys, in an order that is random to an index: a bijection of the numbers below the
 * next power of two (odd multiplications and shifts), applied until the result is below `count`.
 */
function scatteredKey(index: number, count: number): number {
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

/** A number of files of one size. */
export interface Shape {
  readonly name: string;
  readonly files: number;
  readonly fileBytes: number;
}

/** `100x10MB`; units are decimal. */
export function parseShape(text: string): Shape {
  const units: Readonly<Record<string, number>> = { KB: 1e3, MB: 1e6, GB: 1e9 };
  const [, count = '', size = '', unit = ''] = /^(\d+)x([\d.]+)(KB|MB|GB)$/.exec(text) ?? [];
  const files = Number(count);
  const fileBytes = Math.round(Number(size) * (units[unit] ?? 0));
  if (!(files > 0 && fileBytes > 0))
    throw new Error(
      `--shapes: "${text}" is not a number of files and a size, such as 1x1GB, 100x10MB or 1000x10KB.`,
    );
  return { name: text, files, fileBytes };
}

export interface SourceFile {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly lines: number;
  readonly sha256: string;
}

/**
 * Writes files of score lines, always the same for the same shape. Each has another first line, because the service
 * stores equal content only once. The files are sent and never loaded, so keys may repeat.
 */
export async function writeSourceFiles(dir: string, { files, fileBytes }: Shape): Promise<SourceFile[]> {
  await mkdir(dir, { recursive: true });
  const keys = Array.from({ length: PIECE_ROWS }, (_, row) => 100_000_000 + scatteredKey(row, PIECE_ROWS));
  const block = Buffer.from(keys.map(sourceLine).join(''));
  const written: SourceFile[] = [];
  for (let number = 1; number <= files; number += 1)
    written.push(await writeSourceFile(dir, number, fileBytes, block));
  return written;
}

async function writeSourceFile(
  dir: string,
  number: number,
  fileBytes: number,
  block: Buffer,
): Promise<SourceFile> {
  const name = `part-${String(number).padStart(5, '0')}.jsonl`;
  const file = path.join(dir, name);
  const first = Buffer.from(sourceLine(900_000_000 + number));
  const lines = Math.max(1, Math.floor(fileBytes / first.length));
  const hash = createHash('sha256').update(first);
  const handle = await open(file, 'w');
  try {
    await handle.writeFile(first);
    for (let leftBytes = (lines - 1) * first.length; leftBytes > 0; leftBytes -= block.length) {
      const piece = block.subarray(0, leftBytes);
      hash.update(piece);
      await handle.writeFile(piece);
    }
  } finally {
    await handle.close();
  }
  return { name, path: file, bytes: lines * first.length, lines, sha256: hash.digest('hex') };
}

/** Always of the same length: keys have nine digits and scores have three. */
function sourceLine(key: number): string {
  return `{ "pk": "${key}", "score": "${100 + (key % 900)}" }\n`;
}
