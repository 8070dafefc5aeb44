import { createHash } from 'node:crypto';
import { mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import { scatteredKey } from '../score-file.ts';
import type { Shape } from './shape.ts';

const BLOCK_ROWS = 25_000;

export interface SourceFile {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly lines: number;
  readonly sha256: string;
}

/**
 * Files of score lines, always the same for the same shape, each with another first line: the service keeps equal
 * content only once. They are sent and never loaded, so keys come again and again.
 */
export async function writeSourceFiles(dir: string, { files, fileBytes }: Shape): Promise<SourceFile[]> {
  await mkdir(dir, { recursive: true });
  const block = Buffer.from(
    Array.from({ length: BLOCK_ROWS }, (_, row) => line(100_000_000 + scatteredKey(row, BLOCK_ROWS))).join(
      '',
    ),
  );
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
  const lineBytes = line(100_000_000).length;
  const first = Buffer.from(line(900_000_000 + number));
  const lines = Math.max(1, Math.floor(fileBytes / lineBytes));
  const hash = createHash('sha256').update(first);
  const handle = await open(file, 'w');
  try {
    await handle.writeFile(first);
    for (let leftBytes = (lines - 1) * lineBytes; leftBytes > 0; leftBytes -= block.length) {
      const piece = block.subarray(0, leftBytes);
      hash.update(piece);
      await handle.writeFile(piece);
    }
  } finally {
    await handle.close();
  }
  return { name, path: file, bytes: lines * lineBytes, lines, sha256: hash.digest('hex') };
}

function line(key: number): string {
  return `{ "pk": "${key}", "score": "${100 + (key % 900)}" }\n`;
}
