import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { seededRandom } from './random.ts';

const LINES_PER_CHUNK = 10_000;
/** Any two keys of a file differ: a step that shares no factor with the key space visits each key once. */
const KEY_SPACE = 2 ** 31;

export interface ScoreFile {
  path: string;
  lines: number;
  bytes: number;
  sha256: string;
}

/** Writes a file of distinct keys in random order, at a constant use of memory. The same seed, the same bytes. */
export async function writeScoreFile(path: string, lines: number, seed: number): Promise<ScoreFile> {
  await mkdir(dirname(path), { recursive: true });
  const hash = createHash('sha256');
  let bytes = 0;
  const chunks = function* () {
    for (const text of scoreLines(lines, seed)) {
      const chunk = Buffer.from(text);
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
  };
  await pipeline(Readable.from(chunks()), createWriteStream(path));
  return { path, lines, bytes, sha256: hash.digest('hex') };
}

function* scoreLines(lines: number, seed: number): Generator<string> {
  const random = seededRandom(seed);
  // Odd, so that it shares no factor with the key space.
  const step = Math.floor(random() * 2 ** 20) * 2 + 1;
  let key = Math.floor(random() * KEY_SPACE);
  let text = '';
  for (let line = 1; line <= lines; line += 1) {
    key = (key + step * 1_021) % KEY_SPACE;
    text += `{ "pk": "${key}", "score": "${(random() * 100).toFixed(3)}" }\n`;
    if (line % LINES_PER_CHUNK === 0 || line === lines) {
      yield text;
      text = '';
    }
  }
}
