/** Random numbers that a seed reproduces (mulberry32). */
export interface Random {
  /** An integer from 0 to `below` - 1. */
  int(below: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
}

export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const int = (below: number): number => Math.floor(next() * below);
  return {
    int,
    chance: (probability) => next() < probability,
    pick: (items) => {
      const item = items[int(items.length)];
      if (item === undefined) throw new Error('Nothing to pick from: the list is empty.');
      return item;
    },
  };
}

/** The seed of this test run: SCORE_LINES_SEED, or a new one. It is printed, so that a failure can be reproduced. */
export function testSeed(): number {
  const seed = Number(process.env.SCORE_LINES_SEED ?? Math.floor(Math.random() * 2 ** 32));
  console.log(`      SCORE_LINES_SEED=${seed}`);
  return seed;
}

/** How many lines the randomised tests make: SCORE_LINES_LINES, or `usual`. */
export function testLineCount(usual: number): number {
  return Number(process.env.SCORE_LINES_LINES ?? usual);
}

const FILE_LINES = 20_000;

/** Splits the lines into files of these sizes: a million lines at once would not fit into memory. */
export function* fileSizes(lineCount: number): Generator<number> {
  for (let rest = lineCount; rest > 0; rest -= FILE_LINES) yield Math.min(rest, FILE_LINES);
}

/** Enough time for a test of this many lines on a busy machine. */
export function timeoutMs(lineCount: number): number {
  return 120_000 + 2 * lineCount;
}
