import { expect } from 'chai';
import { scanFile } from './scan-file.ts';

function excerptOf(line: Buffer | string): string | undefined {
  return scanFile(Buffer.concat([Buffer.from(line), Buffer.from('\n')])).rejects[0]?.excerpt;
}

describe('the excerpt of a refused line', () => {
  it('shows control and invisible characters, and bytes that are no UTF-8', () => {
    const line = Buffer.concat([
      Buffer.from('é\0\t\x1b\x7f\u0085\u200b\u202e\ufeff😀'),
      Buffer.from([0xff, 0xe2, 0x82]),
    ]);
    expect(excerptOf(line)).to.equal(
      'é\\x00\\t\\x1b\\x7f\\u{85}\\u{200b}\\u{202e}\\u{feff}😀\\xff\\xe2\\x82',
    );
  });

  it('is a short line as it stands', () => {
    expect(excerptOf('x'.repeat(200))).to.equal('x'.repeat(200));
  });

  it('is at most 200 characters, the last an ellipsis, and cuts neither escape nor character', () => {
    expect(excerptOf('x'.repeat(201))).to.equal(`${'x'.repeat(199)}…`);
    expect(excerptOf(`${'x'.repeat(198)}😀y`)).to.equal(`${'x'.repeat(198)}…`);
    expect(excerptOf('\0'.repeat(70))).to.equal(`${'\\x00'.repeat(49)}…`);
  });
});
