import { expect } from 'chai';
import { KeyOrder } from '../src/index.ts';
import { type CopiedRow, readCopyBinary } from './copy-binary.ts';
import { generateLine } from './generated-lines.ts';
import { createRandom, testSeed } from './random.ts';
import { scanFile } from './scan-file.ts';

const rowsOf = (keys: readonly string[]) =>
  scanFile(keys.map((pk, index) => `${JSON.stringify({ pk, score: index })}\n`).join('')).output;

const keysOf = (rows: Buffer) => readCopyBinary(rows).map(({ pk }) => pk);

describe('The order of keys', () => {
  it('loses, adds and changes no row, whatever is in it', () => {
    const random = createRandom(testSeed());
    const order = new KeyOrder();
    for (const lineCount of [0, 1, 2, 3, 1_000, 3_000]) {
      const lines = Array.from({ length: lineCount }, () => `${generateLine(random).toString('latin1')}\n`);
      const { output } = scanFile(Buffer.from(lines.join(''), 'latin1'));
      const byText = (rows: Buffer) =>
        readCopyBinary(rows)
          .map((row: CopiedRow) => JSON.stringify(row))
          .sort();
      expect(byText(order.sort(output))).to.deep.equal(byText(output));
    }
  });

  it('puts keys of one length in order, by four bytes behind those that all share', () => {
    const random = createRandom(testSeed());
    const keys = Array.from({ length: 20_000 }, () => `customer/${1_000 + random.int(9_000)}`);
    expect(keysOf(new KeyOrder().sort(rowsOf(keys)))).to.deep.equal([...keys].sort());
  });

  it('leaves rows with the same four bytes in the order of the file', () => {
    const keys = ['b-2', 'b-1', 'a', 'a'].map((key) => `same${key.padEnd(4, '.')}-${key}`);
    const sorted = readCopyBinary(new KeyOrder().sort(rowsOf([...keys, 'same']))).map(({ score }) => score);
    expect(sorted.filter((score) => score > 1 && score < 4)).to.deep.equal([2, 3]);
  });

  it('puts bytes above ASCII last, as the collation "C" does', () => {
    expect(keysOf(new KeyOrder().sort(rowsOf(['zzzz', 'éééé', 'aaaa'])))).to.deep.equal([
      'aaaa',
      'zzzz',
      'éééé',
    ]);
  });

  it('gives back what is in order as it is', () => {
    const rows = rowsOf(['a1', 'a2', 'a2', 'b']);
    expect(new KeyOrder().sort(rows)).to.equal(rows);
  });
});
