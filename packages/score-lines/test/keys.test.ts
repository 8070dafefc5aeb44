import { expect } from 'chai';
import { createScoreLineScanner, type FoundKey, KeyOrder } from '../src/index.ts';
import { generateLine } from './generated-lines.ts';
import { createRandom, testSeed } from './random.ts';
import { type CopiedRow, readCopyBinary, scanFile } from './scan-file.ts';

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

function find(file: string, keys: readonly string[], chunkBytes: number) {
  const found: FoundKey[] = [];
  let rejected = 0;
  const scanner = createScoreLineScanner({
    onReject: () => {
      rejected += 1;
    },
    find: { keys: new Set(keys), onFound: (it) => found.push(it) },
  });
  const bytes = Buffer.from(file);
  for (let at = 0; at < bytes.length; at += chunkBytes) scanner.scan(bytes.subarray(at, at + chunkBytes));
  scanner.finish();
  return { found, rejected, counts: scanner.counts };
}

describe('looking for keys', () => {
  const lines = [
    '{"pk":"a","score":1}',
    '',
    '{"pk": "b", "score": 2, "why": "pk a"}',
    '{"score":"3","pk":"\\u0061"}',
    '{"pk":"broken"',
    '{"pk":"t\\tab\\\\","score":4}',
    '{"pk":"é","score":5}',
    '{"pk":7,"score":6}',
  ];
  const file = lines.join('\n');
  const offsetOf = (line: number) =>
    Buffer.byteLength(lines.slice(0, line - 1).join('\n')) + (line === 1 ? 0 : 1);

  for (const chunkBytes of [1, 7, 1000]) {
    it(`names line and byte of each, in chunks of ${chunkBytes} bytes`, () => {
      const { found, rejected, counts } = find(file, ['a', 't\tab\\', 'é', '7', 'missing'], chunkBytes);
      expect(found.map(({ pk, line, byteOffset }) => [pk, line, byteOffset])).to.deep.equal(
        [
          ['a', 1],
          ['a', 4],
          ['t\tab\\', 6],
          ['é', 7],
          ['7', 8],
        ].map(([pk, line]) => [pk, line, offsetOf(Number(line))]),
      );
      expect(found[2]?.excerpt).to.equal(lines[5]);
      expect({ rejected, rows: counts.rows, lines: counts.lines }).to.deep.equal({
        rejected: 1,
        rows: 6,
        lines: 8,
      });
    });
  }
});
