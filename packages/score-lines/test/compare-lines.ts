import { expect } from 'chai';
import type { LineCounts } from '../src/index.ts';
import { type CopiedRow, readCopyBinary } from './copy-binary.ts';
import { modelOf, spell } from './json-model.ts';
import { type Expectation, expectationOf } from './line-oracle.ts';
import type { Random } from './random.ts';
import { scanFile } from './scan-file.ts';

const asWritten = (source: string): string => source;

function expectRow(row: CopiedRow | undefined, expected: Expectation & { outcome: 'row' }): void {
  expect(row?.pk).to.equal(expected.pk);
  if (!Object.is(row?.score, Number(expected.score)))
    expect.fail(`the score ${expected.score} became ${row?.score}`);
  const attributes = row?.attributes == null ? null : spell(modelOf(row.attributes), asWritten);
  expect(attributes).to.equal(expected.attributes === null ? null : spell(expected.attributes, asWritten));
}

/** Scans a file of the lines, which have no newline, in pieces of every size and holds each against the oracle. */
export function compareLines(lines: readonly Buffer[], random: Random): LineCounts {
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
