import { expect } from 'chai';
import { createScoreLineScanner, type FoundKey } from '../src/index.ts';

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
