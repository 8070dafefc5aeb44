import { expect } from 'chai';
import type { RejectCode } from '../src/index.ts';
import { readCopyBinary, scanFile } from './scan-file.ts';

/** A line, the code of its refusal, and the text (or the index) of the fault in the line. */
type Refusal = readonly [behaviour: string, line: string | Buffer, code: RejectCode, at: string | number];

function withByte(line: string, ...bytes: number[]): Buffer {
  const [before = '', after = ''] = line.split('§');
  return Buffer.concat([Buffer.from(before), Buffer.from(bytes), Buffer.from(after)]);
}

const nested = (levels: number): string =>
  `{"pk":"a","score":1,"x":${'['.repeat(levels)}${']'.repeat(levels)}}`;
const attribute = (value: string): string => `{"pk":"a","score":1,"x":${value}}`;
const score = (value: string): string => `{"pk":"a","score":${value}}`;
const pk = (value: string): string => `{"pk":${value},"score":1}`;

const refusals: readonly Refusal[] = [
  ['a byte order mark', '\ufeff{"pk":"a","score":1}', 'byte_order_mark', 0],
  ['the little-endian mark of UTF-16', withByte('§{', 0xff, 0xfe), 'byte_order_mark', 0],
  ['the big-endian mark of UTF-16', withByte('§{', 0xfe, 0xff), 'byte_order_mark', 0],
  ['a byte that begins no character', withByte(pk('"a§"'), 0xff), 'invalid_utf8', 8],
  ['a lone continuation byte', withByte(pk('"a§"'), 0x80), 'invalid_utf8', 8],
  ['an overlong slash', withByte(pk('"a§"'), 0xc0, 0xaf), 'invalid_utf8', 8],
  ['an overlong form of three bytes', withByte(pk('"a§"'), 0xe0, 0x9f, 0xbf), 'invalid_utf8', 8],
  ['a surrogate in UTF-8', withByte(pk('"a§"'), 0xed, 0xa0, 0x80), 'invalid_utf8', 8],
  ['a character beyond U+10FFFF', withByte(pk('"a§"'), 0xf4, 0x90, 0x80, 0x80), 'invalid_utf8', 8],
  ['a character that is cut short', withByte(pk('"a§"'), 0xe2, 0x82), 'invalid_utf8', 8],
  ['invalid UTF-8 in a key', withByte('{"pk":"a","score":1,"§":1}', 0xff), 'invalid_utf8', 21],
  ['invalid UTF-8 outside of strings', withByte('{§}', 0xff), 'invalid_utf8', 1],
  ['a raw NUL in a string', pk('"a\0"'), 'nul', '\0'],
  ['a raw NUL between tokens', '{"pk":"a",\0"score":1}', 'nul', '\0'],
  ['an escaped NUL', attribute('"a\\u0000"'), 'nul', '\\u0000'],
  ['a first half of a surrogate pair alone', pk('"\\ud83dx"'), 'lone_surrogate', '\\ud83d'],
  ['a first half followed by another escape', pk('"\\ud83d\\n"'), 'lone_surrogate', '\\ud83d'],
  ['two first halves', pk('"\\ud83d\\ud83d"'), 'lone_surrogate', '\\ud83d'],
  ['a second half alone', attribute('{"\\uDE00":1}'), 'lone_surrogate', '\\uDE00'],
  ['two second halves', pk('"\\ude00\\ude00"'), 'lone_surrogate', '\\ude00'],
  ['text that is no JSON', 'pk,score', 'invalid_json', 0],
  ['a line in single quotes', "{'pk':'a','score':1}", 'invalid_json', 1],
  ['a line that ends too early', '{"pk":"a","score":1', 'invalid_json', 19],
  ['a string without end', '{"pk":"a', 'invalid_json', 8],
  ['a comma at the end', '{"pk":"a","score":1,}', 'invalid_json', '}'],
  ['a comma at the end of an array', attribute('[1,]'), 'invalid_json', ']'],
  ['two commas', '{"pk":"a",,"score":1}', 'invalid_json', 10],
  ['a missing colon', '{"pk" "a","score":1}', 'invalid_json', 6],
  ['two objects in a line', '{"pk":"a","score":1}{"pk":"b","score":1}', 'invalid_json', 20],
  ['a raw tab in a string', pk('"a\tb"'), 'invalid_json', '\t'],
  ['an unknown escape', pk('"a\\x41"'), 'invalid_json', 'x41'],
  ['a bad hexadecimal digit', pk('"\\u00g0"'), 'invalid_json', 'g'],
  ['an integer as pk with leading zeros', pk('007'), 'invalid_json', '07'],
  ['a number with leading zeros', score('01'), 'invalid_json', '1}'],
  ['a number without digits behind the point', score('1.}'), 'invalid_json', '}}'],
  ['a number that begins with a plus', score('+1'), 'invalid_json', '+'],
  ['NaN', score('NaN'), 'invalid_json', 'N'],
  ['a misspelt word', attribute('nul'), 'invalid_json', '}'],
  ['a no-break space between tokens', '{\u00a0"pk":"a","score":1}', 'invalid_json', '\u00a0'],
  ['an array', '["pk","score"]', 'not_an_object', 0],
  ['a number alone', ' 17', 'not_an_object', 1],
  ['the line that ends COPY data', '\\.', 'invalid_json', 0],
  ['an object without pk', '{"score":1}', 'missing_pk', 0],
  ['an empty object', ' {}', 'missing_pk', 0],
  ['pk with a capital letter', '{"PK":"a","score":1}', 'missing_pk', 0],
  ['an object without score', '{"pk":"a"}', 'missing_score', 0],
  ['an empty pk', pk('""'), 'invalid_pk', '""'],
  ['a pk with a point', pk('1.0'), 'invalid_pk', '1.0'],
  ['a pk with an exponent', pk('1e3'), 'invalid_pk', '1e3'],
  ['null as pk', pk('null'), 'invalid_pk', 'null'],
  ['true as pk', pk('true'), 'invalid_pk', 'true'],
  ['an object as pk', pk('{}'), 'invalid_pk', '{}'],
  ['a pk of 2,049 bytes', pk(`"${'é'.repeat(1024)}x"`), 'pk_too_long', '"é'],
  ['a usual pk of 2,049 bytes', pk(`"${'x'.repeat(2049)}"`), 'pk_too_long', '"x'],
  ['pk given twice', '{"pk":"a","score":1,"pk":"a"}', 'duplicate_pk_key', '"pk":"a"}'],
  ['pk given twice, once in escapes', '{"pk":"a","score":1,"p\\u006b":"a"}', 'duplicate_pk_key', '"p\\u006b'],
  ['score given twice', '{"pk":"a","score":1,"score":1}', 'duplicate_score_key', '"score":1}'],
  ['null as score', score('null'), 'invalid_score', 'null'],
  ['an array as score', score('[1]'), 'invalid_score', '[1]'],
  ['an empty string as score', score('""'), 'invalid_score', '""'],
  ['a score with whitespace', score('" 1"'), 'invalid_score', '" 1"'],
  ['a hexadecimal score', score('"0x10"'), 'invalid_score', '"0x10"'],
  ['Infinity in a string', score('"Infinity"'), 'invalid_score', '"Inf'],
  ['NaN in a string', score('"NaN"'), 'invalid_score', '"NaN"'],
  ['a score string with a plus', score('"+1"'), 'invalid_score', '"+1"'],
  ['a score string with leading zeros', score('"01"'), 'invalid_score', '"01"'],
  ['a score string without digits before the point', score('".5"'), 'invalid_score', '".5"'],
  ['a score that ends with a newline', score('"1\\n"'), 'invalid_score', '"1\\n"'],
  ['a score that overflows', score('1e400'), 'invalid_score', '1e400'],
  ['a score of 309 nines', score('9'.repeat(309)), 'invalid_score', '9'],
  ['a score that would become zero', score('"-1e-400"'), 'invalid_score', '"-1e-400"'],
  ['a repeated attribute', '{"pk":"a","score":1,"x":1,"x":2}', 'duplicate_attribute', '"x":2'],
  [
    'a repeated attribute in escapes',
    '{"pk":"a","score":1,"x":1,"\\u0078":2}',
    'duplicate_attribute',
    '"\\u0078',
  ],
  ['a repeated key inside an attribute', attribute('[{"y":1,"z":1,"y":1}]'), 'duplicate_attribute', '"y":1}'],
  ['257 levels of nesting', nested(256), 'too_deep', 24 + 255],
  ['a million opened brackets', `{"x":${'['.repeat(1_000_000)}`, 'too_deep', 5 + 255],
  ['a number with too many digits', attribute('1e131072'), 'number_out_of_range', '1e131072'],
  [
    'a number with too many digits behind the point',
    attribute('[0, 1.0e-16383]'),
    'number_out_of_range',
    '1.0e',
  ],
  [
    'numbers that jsonb could not write out',
    attribute(`[${'1e131071,'.repeat(128)}0]`),
    'number_out_of_range',
    24 + 1 + 127 * 9 + 9,
  ],
];

function offsetOf(line: Buffer, at: string | number): number {
  return typeof at === 'number' ? at : line.indexOf(at);
}

describe('score-lines refuses', () => {
  const good = '{"pk":"good","score":1}\n';
  const goodRow = { score: 1, pk: 'good', attributes: null };
  for (const [behaviour, text, code, at] of refusals) {
    it(`${behaviour}: ${code}`, () => {
      const line = Buffer.from(text);
      const file = Buffer.concat([Buffer.from(good), line, Buffer.from(`\n${good}`)]);
      const { output, rejects, counts } = scanFile(file);
      expect(rejects).to.have.length(1);
      expect(rejects[0]).to.include({ line: 2, code, byteOffset: good.length + offsetOf(line, at) });
      expect(rejects[0]?.detail).to.match(/^\S.*[.\w]$/s);
      expect(readCopyBinary(output), 'the lines around it').to.deep.equal([goodRow, goodRow]);
      expect(counts).to.deep.equal({ bytes: file.length, lines: 3, blank: 0, rejected: 1, rows: 2 });
    });
  }

  it('a file that is cut in mid object, at any byte: cut_off where the file ends', () => {
    const line = Buffer.from('{"pk":"é\\ud83d\\ude00","score":-1.5e+3,"x":[true,{"y":null}]}');
    for (let cut = 1; cut < line.length; cut++) {
      const { output, rejects } = scanFile(Buffer.concat([Buffer.from(good), line.subarray(0, cut)]));
      expect(rejects, line.subarray(0, cut).toString()).to.have.length(1);
      expect(rejects[0]).to.include({ line: 2, code: 'cut_off', byteOffset: good.length + cut });
      expect(readCopyBinary(output)).to.deep.equal([goodRow]);
    }
  });

  it('a last line without newline that is wrong before it ends, with the code of what is wrong', () => {
    expect(scanFile('{"pk":null,"sco').rejects[0]).to.include({ code: 'invalid_pk', byteOffset: 6 });
    expect(scanFile('[1, 2]').rejects[0]).to.include({ code: 'not_an_object', byteOffset: 0 });
  });

  it('a line that is too long, once, and continues after it, wherever chunks are cut', () => {
    const long = `{"pk":"${'x'.repeat(5000)}","score":1}`;
    for (const chunkBytes of [1, 7, 100, 5000, 1_000_000]) {
      for (const ending of [`\n${good}`, '']) {
        const { output, rejects, counts } = scanFile(`${good}${long}${ending}`, () => chunkBytes, 1000);
        expect(rejects).to.have.length(1);
        expect(rejects[0]).to.include({ line: 2, code: 'line_too_long', byteOffset: good.length });
        expect(rejects[0]?.excerpt).to.equal(`${long.slice(0, 199)}…`);
        expect(readCopyBinary(output)).to.deep.equal(ending === '' ? [goodRow] : [goodRow, goodRow]);
        expect(counts.lines).to.equal(ending === '' ? 2 : 3);
      }
    }
  });

  it('a usual line of one byte more than allowed', () => {
    const line = '{"pk":"1","score":1}';
    expect(scanFile(`${line}\n`, undefined, line.length - 1).rejects[0]).to.include({
      code: 'line_too_long',
    });
  });
});

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

  it('is the whole line when it is short', () => {
    expect(excerptOf('x'.repeat(200))).to.equal('x'.repeat(200));
  });

  it('is at most 200 characters, the last an ellipsis, and cuts neither escape nor character', () => {
    expect(excerptOf('x'.repeat(201))).to.equal(`${'x'.repeat(199)}…`);
    expect(excerptOf(`${'x'.repeat(198)}😀y`)).to.equal(`${'x'.repeat(198)}…`);
    expect(excerptOf('\0'.repeat(70))).to.equal(`${'\\x00'.repeat(49)}…`);
  });
});
