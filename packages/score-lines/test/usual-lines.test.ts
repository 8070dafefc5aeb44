import { compareLines } from './compare-lines.ts';
import { createRandom } from './random.ts';

const NEWLINE = 0x0a;

/** Every shape that the fast path takes; the values are short, so that each way to damage one is tried. */
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

describe('usual lines with a fault, against JSON.parse', () => {
  for (const usualLine of usualLines) {
    it(`finds every wrong or missing byte of ${JSON.stringify(usualLine)}`, () => {
      const line = Buffer.from(usualLine);
      compareLines([line, ...withOneByteWrong(line), ...withTwoBytesMissing(line)], createRandom(1));
    });
  }
});
