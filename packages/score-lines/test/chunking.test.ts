import { expect } from 'chai';
import { generateLine } from './generated-lines.ts';
import { createRandom, testSeed } from './random.ts';
import { scanFile } from './scan-file.ts';

describe('score-lines gives the same whatever the chunks', () => {
  const borders = Buffer.concat([
    Buffer.from(
      '{ "pk": "1", "score": "100" }\r\n\r\n{"pk":"é€😀\\ud83d\\ude00\\n","score":-1.5e3,"x":["\\\\"]}\n',
    ),
    Buffer.from('{"pk":"\\ud83d","score":1}\n{"pk":"'),
    Buffer.of(0xe2, 0x82),
    Buffer.from('"}\r\n{"pk":1,"score":2}\r\n \t\n{"pk":"last","score":"0'),
  ]);

  it('cut once at each byte, also inside escapes, characters and CRLF', () => {
    const whole = scanFile(borders);
    expect(whole.counts).to.deep.equal({ bytes: borders.length, lines: 8, blank: 2, rejected: 3, rows: 3 });
    for (let cut = 1; cut < borders.length; cut++) {
      let isFirst = true;
      const nextChunkBytes = (): number => {
        if (!isFirst) return borders.length;
        isFirst = false;
        return cut;
      };
      expect(scanFile(borders, nextChunkBytes), `cut at ${cut}`).to.deep.equal(whole);
    }
  });

  it('in chunks of every size from one byte to the whole', () => {
    const whole = scanFile(borders);
    for (let size = 1; size < borders.length; size++) {
      expect(
        scanFile(borders, () => size),
        `chunks of ${size}`,
      ).to.deep.equal(whole);
    }
  });

  it('of random size, empty ones too, for generated lines', () => {
    const random = createRandom(testSeed());
    const lines = Array.from({ length: 3000 }, () => generateLine(random));
    const file = Buffer.from(Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')])));
    const whole = scanFile(file, undefined, 3000);
    const sizes: (() => number)[] = [
      () => 1,
      () => random.int(3),
      () => 1 + random.int(64),
      () => random.int(2000),
      () => random.int(200_000),
    ];
    for (const [index, nextChunkBytes] of sizes.entries()) {
      const scanned = scanFile(file, nextChunkBytes, 3000);
      expect(scanned.output.equals(whole.output), `the output of chunking ${index}`).to.equal(true);
      expect(scanned.rejects, `the rejects of chunking ${index}`).to.deep.equal(whole.rejects);
      expect(scanned.counts, `the counts of chunking ${index}`).to.deep.equal(whole.counts);
    }
  });
});
