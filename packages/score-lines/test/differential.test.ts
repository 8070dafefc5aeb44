import { expect } from 'chai';
import type { LineCounts } from '../src/index.ts';
import { type CopiedRow, readCopyBinary } from './copy-binary.ts';
import { generateLine } from './generated-lines.ts';
import { modelOf, spell } from './json-model.ts';
import { type Expectation, expectationOf } from './line-oracle.ts';
import { createRandom, fileSizes, type Random, testLineCount, testSeed, timeoutMs } from './random.ts';
import { scanFile } from './scan-file.ts';

const asWritten = (source: string): string => source;

function expectRow(row: CopiedRow | undefined, expected: Expectation & { outcome: 'row' }): void {
  expect(row?.pk).to.equal(expected.pk);
  if (!Object.is(row?.score, Number(expected.score)))
    expect.fail(`the score ${expected.score} became ${row?.score}`);
  const attributes = row?.attributes == null ? null : spell(modelOf(row.attributes), asWritten);
  expect(attributes).to.equal(expected.attributes === null ? null : spell(expected.attributes, asWritten));
}

/** Makes a file of so many lines, scans it in pieces of every size, and holds each line against the oracle. */
function compareFile(random: Random, lineCount: number): LineCounts {
  const lines = Array.from({ length: lineCount }, () => generateLine(random));
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
    lines: lineCount,
    blank,
    rejected: rejects.length,
    rows: rowAt,
  });
  return counts;
}

describe('score-lines against JSON.parse', () => {
  it('gives the text of the source, or reports the line, and nothing third', function () {
    const lineCount = testLineCount(100_000);
    this.timeout(timeoutMs(lineCount));
    const random = createRandom(testSeed());
    const total = { rows: 0, rejected: 0, blank: 0 };
    for (const size of fileSizes(lineCount)) {
      const { rows, rejected, blank } = compareFile(random, size);
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
