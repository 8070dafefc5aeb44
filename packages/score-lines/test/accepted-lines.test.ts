import { expect } from 'chai';
import { readCopyBinary, scanFile } from './scan-file.ts';

type Row = readonly [score: number, pk: string, attributes: string | null];

/** A line, and the row that it must give. */
const rows: readonly (readonly [behaviour: string, line: string, row: Row])[] = [
  ['the usual line', '{ "pk": "123", "score": "100" }', [100, '123', null]],
  ['the usual line without spaces', '{"pk":"123","score":"100"}', [100, '123', null]],
  ['a numeric score', '{"pk": "123", "score": -0.250}', [-0.25, '123', null]],
  ['a score of 16 digits', '{"pk": "123", "score": 0.8374659283746592}', [0.8374659283746592, '123', null]],
  ['a score of negative zero', '{"pk": "123", "score": "-0"}', [-0, '123', null]],
  ['a score with an exponent', '{"pk":"1","score":1.5E+10}', [1.5e10, '1', null]],
  ['the smallest double', '{"pk":"1","score":5e-324}', [5e-324, '1', null]],
  ['a zero with any exponent', '{"pk":"1","score":"-0.0e999999"}', [-0, '1', null]],
  ['a score of 400 digits after the point', `{"pk":"1","score":0.1${'0'.repeat(400)}}`, [0.1, '1', null]],
  ['a score written with escapes', '{"pk":"1","score":"\\u0031\\u002e5"}', [1.5, '1', null]],
  ['the keys in the other order', '{"score":1,"pk":"a"}', [1, 'a', null]],
  ['keys written with escapes', '{"\\u0070k":"a","scor\\u0065":1}', [1, 'a', null]],
  ['an integer as pk', '{"pk":42,"score":1}', [1, '42', null]],
  [
    'an integer as pk beyond 2^53, as written',
    '{"pk":12345678901234567890,"score":1}',
    [1, '12345678901234567890', null],
  ],
  ['a negative integer as pk', '{"pk":-5,"score":1}', [1, '-5', null]],
  ['zero as pk', '{"pk":0,"score":1}', [1, '0', null]],
  ['a pk of a space', '{"pk":" ","score":1}', [1, ' ', null]],
  ['a pk that is not ASCII', '{"pk":"né€😀","score":1}', [1, 'né€😀', null]],
  ['a pk with a surrogate pair in escapes', '{"pk":"\\ud83d\\uDE00","score":1}', [1, '😀', null]],
  [
    'a pk with every escape',
    '{"pk":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041","score":1}',
    [1, '"\\/\b\f\n\r\tA', null],
  ],
  ['a pk that looks like the end of a COPY', '{"pk":"\\\\.","score":1}', [1, '\\.', null]],
  ['a pk that looks like NULL', '{"pk":"\\\\N","score":1}', [1, '\\N', null]],
  ['a pk of 2,048 bytes', `{"pk":"${'x'.repeat(2048)}","score":1}`, [1, 'x'.repeat(2048), null]],
  [
    'other keys, their text kept',
    '{"pk":"a","x":1.10,"score":1,"y":[1E2, true]}',
    [1, 'a', '{"x":1.10,"y":[1E2, true]}'],
  ],
  [
    'integers beyond 2^53 among the other keys',
    '{"pk":"a","score":1,"n":12345678901234567890}',
    [1, 'a', '{"n":12345678901234567890}'],
  ],
  ['backslashes among the other keys', '{"pk":"a","score":1,"x":"\\\\\\n"}', [1, 'a', '{"x":"\\\\\\n"}']],
  [
    'a line that is backslashes almost only',
    `{"pk":"a","score":1,"x":"${'\\'.repeat(200_000)}"}`,
    [1, 'a', `{"x":"${'\\'.repeat(200_000)}"}`],
  ],
  ['tabs and returns between tokens', '{"pk":"a","score":1,"x":\t[1,\r2]\t}', [1, 'a', '{"x":\t[1,\r2]}']],
  ['an empty key and empty containers', '{"pk":"a","score":1,"":{},"e":[]}', [1, 'a', '{"":{},"e":[]}']],
  [
    'the same key in different objects',
    '{"pk":"a","score":1,"x":{"pk":1,"x":2}}',
    [1, 'a', '{"x":{"pk":1,"x":2}}'],
  ],
  [
    '256 levels of nesting',
    `{"pk":"a","score":1,"x":${'['.repeat(255)}${']'.repeat(255)}}`,
    [1, 'a', `{"x":${'['.repeat(255)}${']'.repeat(255)}}`],
  ],
  ['whitespace everywhere', '\t {\r"pk" :\t"a" ,  "score"\t:1 } \r', [1, 'a', null]],
];

function rowsOf(output: Buffer): Row[] {
  return readCopyBinary(output).map(({ score, pk, attributes }) => [score, pk, attributes]);
}

describe('score-lines accepts', () => {
  for (const [behaviour, line, row] of rows) {
    it(behaviour, () => {
      const { output, rejects, counts } = scanFile(`${line}\n`);
      expect(rejects).to.deep.equal([]);
      expect(rowsOf(output)).to.deep.equal([row]);
      expect(counts).to.include({ lines: 1, rows: 1, blank: 0, rejected: 0 });
    });
  }

  it('lines that end with CRLF, and a last line without newline', () => {
    const { output, rejects } = scanFile(
      '{"pk":"1","score":1}\r\n{"score":2,"pk":"2"}\r\n{"pk":"3","score":3}',
    );
    expect(rejects).to.deep.equal([]);
    expect(rowsOf(output)).to.deep.equal([
      [1, '1', null],
      [2, '2', null],
      [3, '3', null],
    ]);
  });

  it('blank lines, which it counts and skips', () => {
    const { output, counts } = scanFile('\n \t\r\n{"pk":"1","score":1}\n\r\n  ');
    expect(rowsOf(output)).to.deep.equal([[1, '1', null]]);
    expect(counts).to.deep.equal({ bytes: 30, lines: 5, blank: 4, rejected: 0, rows: 1 });
  });

  it('an empty file, and one of a single newline', () => {
    expect(scanFile('').counts).to.deep.equal({ bytes: 0, lines: 0, blank: 0, rejected: 0, rows: 0 });
    expect(scanFile('\n').counts).to.deep.equal({ bytes: 1, lines: 1, blank: 1, rejected: 0, rows: 0 });
  });

  it('a line of exactly the allowed length, with and without newline', () => {
    const line = '{"pk":"1","score":1}';
    for (const file of [line, `${line}\n`])
      expect(scanFile(file, undefined, line.length).counts.rows).to.equal(1);
  });
});
