import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const LINES_PER_CHUNK = 10_000;
/** A step that shares no factor with the key space visits each key once, so no key of a file repeats. */
const KEY_SPACE = 2 ** 31;

export interface ScoreFile {
  path: string;
  lines: number;
  bytes: number;
  sha256: string;
  /** The sum of the scores, in thousandths. */
  thousandths: number;
}

/** Writes a file of distinct keys in random order, in constant memory. The same seed gives the same bytes. */
export async function writeScoreFile(path: string, lines: number, seed: number): Promise<ScoreFile> {
  await mkdir(dirname(path), { recursive: true });
  const hash = createHash('sha256');
  let bytes = 0;
  let thousandths = 0;
  const chunks = function* () {
    for (const { text, sum } of scoreLines(lines, seed)) {
      thousandths += sum;
      const chunk = Buffer.from(text);
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
  };
  await pipeline(Readable.from(chunks()), createWriteStream(path));
  return { path, lines, bytes, sha256: hash.digest('hex'), thousandths };
}

function* scoreLines(lines: number, seed: number): Generator<{ text: string; sum: number }> {
  const random = seededRandom(seed);
  // An odd step shares no factor with the key space.
  const step = Math.floor(random() * 2 ** 20) * 2 + 1;
  let key = Math.floor(random() * KEY_SPACE);
  let text = '';
  let sum = 0;
  for (let line = 1; line <= lines; line += 1) {
    key = (key + step * 1_021) % KEY_SPACE;
    const score = (random() * 100).toFixed(3);
    text += `{ "pk": "${key}", "score": "${score}" }\n`;
    sum += Math.round(Number(score) * 1_000);
    if (line % LINES_PER_CHUNK === 0 || line === lines) {
      yield { text, sum };
      text = '';
      sum = 0;
    }
  }
}

/** Random numbers from 0 to 1 (mulberry32). The same seed gives the same numbers on every machine. */
export function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** TEST_SEED, to repeat a failure, or else a new seed. Prints it. */
export function testSeed(): number {
  const seed = process.env.TEST_SEED ? Number(process.env.TEST_SEED) : Math.floor(Math.random() * 2 ** 31);
  console.log(`      seed ${seed} (to repeat: TEST_SEED=${seed})`);
  return seed;
}
