import { expect } from 'chai';
import { compareLines } from './compare-lines.ts';
import { generateLine } from './generated-lines.ts';
import { createRandom, fileSizes, testLineCount, testSeed, timeoutMs } from './random.ts';

describe('score-lines against JSON.parse', () => {
  it('gives the text of the source, or reports the line, and nothing third', function () {
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
