/**
 * Lines per second of score-lines against JSON.parse, for the lines that classifiers write. Both read the same file in
 * chunks of 1 MiB. The scanner returns complete COPY rows. JSON.parse only parses each line, which is the least that a
 * loader based on it would do.
 *
 *   node bench/scan.ts
 */
import { createScoreLineScanner, ScoreProfile } from 'score-lines';
import { formatTable } from './result.ts';

const CHUNK_BYTES = 1024 * 1024;
const FILE_CHUNKS = 24;
const ROUNDS = 8;

const makers: Record<string, (key: number, score: number) => string> = {
  usual: (key, score) => `{ "pk": "${key}", "score": "${Math.round(score * 1000)}" }\n`,
  'usual, compact': (key, score) => `{"pk":"${key}","score":"${Math.round(score * 1000)}"}\n`,
  'numeric score': (key, score) => `{"pk": "${key}", "score": ${score.toFixed(6)}}\n`,
  '17 digits': (key, score) => `{"pk": "${key}", "score": ${score / 3}}\n`,
  'score first': (key, score) => `{"score": ${score.toFixed(6)}, "pk": "${key}"}\n`,
  'with attributes': (key, score) =>
    `{"pk": "${key}", "score": ${score.toFixed(6)}, "segment": "b${key % 10}", "reasons": ["income", "age"], "model": {"auc": 0.871, "n": ${key % 97}}}\n`,
};

function makeFile(makeLine: (key: number, score: number) => string): Buffer {
  const lines: string[] = [];
  let sizeBytes = 0;
  for (let row = 0; sizeBytes < CHUNK_BYTES * FILE_CHUNKS; row++) {
    const line = makeLine((row * 2_654_435_761) % 1_000_000_007, ((row * 7919) % 1_000_003) / 1_000_003);
    lines.push(line);
    sizeBytes += line.length;
  }
  return Buffer.from(lines.join(''));
}

function scanFile(file: Buffer): number {
  const scanner = createScoreLineScanner({
    profile: new ScoreProfile(),
    onReject: (rejected) => {
      throw new Error(`The scanner rejected line ${rejected.line} of the benchmark: ${rejected.detail}`);
    },
  });
  for (let at = 0; at < file.length; at += CHUNK_BYTES) scanner.scan(file.subarray(at, at + CHUNK_BYTES));
  scanner.finish();
  return scanner.counts.rows;
}

function parseFile(file: Buffer): number {
  let rows = 0;
  let rest = '';
  for (let at = 0; at < file.length; at += CHUNK_BYTES) {
    const lines = (rest + file.toString('utf8', at, Math.min(at + CHUNK_BYTES, file.length))).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (JSON.parse(line).pk !== undefined) rows++;
    }
  }
  return rows;
}

/** The best time of each, in turn: a disturbance affects both, and can only make a round slower. */
function bestSeconds(...runs: (() => unknown)[]): number[] {
  const best = runs.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, run] of runs.entries()) {
      const startedMs = performance.now();
      run();
      best[index] = Math.min(best[index] ?? 0, (performance.now() - startedMs) / 1000);
    }
  }
  return best;
}

const rowsOfTable: string[][] = [];
for (const [name, makeLine] of Object.entries(makers)) {
  const file = makeFile(makeLine);
  const rows = scanFile(file);
  if (parseFile(file) !== rows) throw new Error(`Scanner and JSON.parse disagree on the rows of "${name}".`);
  const [scanSeconds = 0, parseSeconds = 0] = bestSeconds(
    () => scanFile(file),
    () => parseFile(file),
  );
  const rates = (seconds: number) => [
    (rows / seconds / 1e6).toFixed(2),
    (file.length / seconds / 1e6).toFixed(0),
  ];
  const ratio = (parseSeconds / scanSeconds).toFixed(1);
  rowsOfTable.push([name, ...rates(scanSeconds), ...rates(parseSeconds), ratio]);
}
const table = {
  title: `Best of ${ROUNDS} rounds each, Node ${process.version}`,
  columns: ['lines', 'scanner M lines/s', 'MB/s', 'JSON.parse M lines/s', 'MB/s', 'ratio'],
  rows: rowsOfTable,
};
console.log(formatTable(table));
