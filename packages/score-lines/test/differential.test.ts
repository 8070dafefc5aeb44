import { expect } from 'chai';
import type { LineCounts } from '../src/index.ts';
import { generateLine } from './generated-lines.ts';
import { type Expectation, expectationOf, modelOf, spell } from './oracle.ts';
import { createRandom, fileSizes, type Random, testLineCount, testSeed, timeoutMs } from './random.ts';
import { type CopiedRow, readCopyBinary, scanFile } from './scan-file.ts';

describe('score-lines against JSON.parse', () => {
  it('gives the text of the source or reports the line, with no third outcome', function () {
    const lineCount = testLineCount(100_000);
    this.timeout(timeoutMs(lineCount));
    const random = createRandom(testSeed());
    const total = { rows: 0, rejected: 0, blank: 0 };
    for (const size of fileSizes(lineCount)) {
      const lines = Array.from({ length: size }, () => generateLine(random));
      const { rows, rejected, blank } = compareLines(lines, random);
      total.rows += rows;
      total.rejected += rejected;
      total.blank += blank;
    }
    const { rows, rejected, blank } = total;
    console.log(`      ${lineCount} lines: ${rows} rows, ${rejected} refused, ${blank} blank`);
    expect(rows, 'the generator makes too few good lines').to.be.above(lineCount / 3);
    expect(rejected, 'the generator makes too few bad lines').to.be.above(lineCount / 20);
  });
});

const NEWLINE = 0x0a;

/** Every form that the fast path accepts; the values are short, so that the test can try every damage. */
const usualLines = ['12', '"12"'].flatMap((pk) =>
  ['-3.5', '"60"'].flatMap((score) => [
    `{"pk":${pk},"score":${score}}`,
    `{ "pk": ${pk}, "score": ${score} }\r`,
  ]),
);

function* withOneByteWrong(line: Buffer): Generator<Buffer> {
  for (let at = 0; at <= line.length; at++) {
    const before = line.subarray(0, at);
    for (let byte = 0; byte < 256; byte++) {
      if (byte === NEWLINE) continue;
      yield Buffer.concat([before, Buffer.of(byte), line.subarray(at)]);
      yield Buffer.concat([before, Buffer.of(byte), line.subarray(at + 1)]);
    }
  }
}

function* withTwoBytesMissing(line: Buffer): Generator<Buffer> {
  for (let first = 0; first < line.length; first++) {
    for (let second = first; second < line.length; second++) {
      yield Buffer.from(line.filter((_, at) => at !== first && at !== second));
    }
  }
}

describe('usual lines with a fault, against JSON.parse', function () {
  this.timeout(60_000);

  for (const usualLine of usualLines) {
    it(`finds every wrong or missing byte of ${JSON.stringify(usualLine)}`, () => {
      const line = Buffer.from(usualLine);
      compareLines([line, ...withOneByteWrong(line), ...withTwoBytesMissing(line)], createRandom(1));
    });
  }
});

/** Scans a file of the lines (without their newlines) in chunks of all sizes and compares each result with the oracle. */
function compareLines(lines: readonly Buffer[], random: Random): LineCounts {
  const file = Buffer.concat(
    lines.flatMap((line) => [line, Buffer.from(random.chance(0.1) ? '\r\n' : '\n')]),
  );
  const { output, rejects, counts } = scanFile(file, () => 1 + random.int(random.pick([3, 100, 10_000])));

  const rows = readCopyBinary(output);
  const rejectsByLine = new Map(rejects.map((rejected) => [rejected.line, rejected]));
  let rowAt = 0;
  let blank = 0;
  let offset = 0;
  for (const [index, line] of lines.entries()) {
    const lineEnd = file.indexOf(0x0a, offset);
    const rejected = rejectsByLine.get(index + 1);
    const expected = expectationOf(line);
    const fail = (what: string): never => expect.fail(`line ${index + 1}, ${what}: ${line}`);
    if ((rejected !== undefined) !== (expected.outcome === 'rejected')) {
      fail(rejected === undefined ? 'was not refused' : `was refused as ${rejected.code}`);
    }
    if (expected.outcome === 'blank') blank++;
    if (expected.outcome === 'row') expectRow(rows[rowAt++], expected);
    if (expected.outcome === 'rejected' && rejected !== undefined) {
      if (rejected.byteOffset < offset || rejected.byteOffset > lineEnd)
        fail('byteOffset is not in the line');
      if (rejected.excerpt.length > 200) fail('has a long excerpt');
      if (expected.codes?.has(rejected.code) === false) fail(`has the wrong code ${rejected.code}`);
    }
    offset = lineEnd + 1;
  }
  expect(rows).to.have.length(rowAt);
  expect(counts).to.deep.equal({
    bytes: file.length,
    lines: lines.length,
    blank,
    rejected: rejects.length,
    rows: rowAt,
  });
  return counts;
}

const asWritten = (source: string): string => source;

function expectRow(row: CopiedRow | undefined, expected: Expectation & { outcome: 'row' }): void {
  expect(row?.pk).to.equal(expected.pk);
  if (!Object.is(row?.score, Number(expected.score)))
    expect.fail(`the score ${expected.score} became ${row?.score}`);
  const attributes = row?.attributes == null ? null : spell(modelOf(row.attributes), asWritten);
  expect(attributes).to.equal(expected.attributes === null ? null : spell(expected.attributes, asWritten));
}
