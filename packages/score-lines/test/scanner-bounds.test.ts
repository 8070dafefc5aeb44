import { expect } from 'chai';
import { createScoreLineScanner, type RejectedLine } from '../src/index.ts';

const CHUNK_BYTES = 64 * 1024;

function bufferBytes(): number {
  return process.memoryUsage().arrayBuffers;
}

describe('a scanner', () => {
  it('refuses a line that never ends once, and holds none of its 256 MiB', () => {
    const rejects: RejectedLine[] = [];
    const scanner = createScoreLineScanner({ onReject: (rejected) => rejects.push(rejected) });
    const chunk = Buffer.alloc(CHUNK_BYTES, '{"pk":"x');
    const before = bufferBytes();
    for (let sent = 0; sent < 256 * 1024 * 1024; sent += CHUNK_BYTES) scanner.scan(chunk);
    expect(bufferBytes() - before).to.be.below(8 * 1024 * 1024);
    scanner.scan(Buffer.from('\n{"pk":"1","score":1}\n'));
    scanner.finish();
    expect(rejects.map(({ line, code }) => ({ line, code }))).to.deep.equal([
      { line: 1, code: 'line_too_long' },
    ]);
    expect(scanner.counts).to.include({ lines: 2, rows: 1, rejected: 1 });
  });

  it('stays fast when a long line arrives in single bytes', function () {
    this.timeout(5000); // It takes 0.1 s. Copying all earlier bytes for each byte would take minutes.
    const line = Buffer.from(`{"pk":"1","score":1,"x":"${'y'.repeat(1_000_000)}"}\n`);
    const scanner = createScoreLineScanner({ onReject: ({ detail }) => expect.fail(detail) });
    let outputBytes = 0;
    for (let at = 0; at < line.length; at++) outputBytes += scanner.scan(line.subarray(at, at + 1)).length;
    expect(outputBytes).to.be.above(1_000_000);
  });

  it('stays fast when one object has 80,000 keys', function () {
    this.timeout(5000); // Comparing every key with every other takes minutes.
    const members = Array.from({ length: 80_000 }, (_, key) => `"${key}":0`).join(',');
    const scanner = createScoreLineScanner({ onReject: ({ detail }) => expect.fail(detail) });
    scanner.scan(Buffer.from(`{"pk":"1","score":1,"x":{${members}}}\n`));
    expect(scanner.counts.rows).to.equal(1);
  });

  it('refuses an invalid maxLineBytes', () => {
    for (const maxLineBytes of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => createScoreLineScanner({ onReject: () => {}, maxLineBytes })).to.throw(RangeError);
    }
  });

  it('refuses to continue after the end of its file', () => {
    const scanner = createScoreLineScanner({ onReject: ({ detail }) => expect.fail(detail) });
    scanner.finish();
    expect(() => scanner.scan(Buffer.from('\n'))).to.throw('create one scanner for each file');
    expect(() => scanner.finish()).to.throw('create one scanner for each file');
  });
});
