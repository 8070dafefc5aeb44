import { pipeline } from 'node:stream/promises';
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'chai';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL } from '../src/index.ts';
import { scanFile } from './scan-file.ts';

const LINE_BYTES_MAX = 1024 * 1024;

/** A line of the maximum size: `piece(n)` for n from 0 on, separated by commas. */
function filled(open: string, piece: (n: number) => string, close: string): string {
  const pieces: string[] = [];
  let bytes = open.length + close.length;
  for (let n = 0; ; n += 1) {
    const next = piece(n);
    bytes += Buffer.byteLength(next) + 1;
    if (bytes > LINE_BYTES_MAX) return `${open}${pieces.join(',')}${close}`;
    pieces.push(next);
  }
}

const START = '{"pk":"a","score":1,';
const largest = (rest: string) => `${START}${rest.padEnd(LINE_BYTES_MAX - START.length - 1)}}`;
const NESTED = 255;

/** Each at a limit of jsonb or text in PostgreSQL, or far from usual lines. */
const accepted: Record<string, string> = {
  'as many keys as fit': filled(START, (n) => `"${n}":0`, '}'),
  'as many numbers as fit': filled(`${START}"x":[`, () => '0', ']}'),
  'numbers that take 16 MiB when they are written out': filled(
    `${START}"x":[`,
    (n) => (n < 120 ? '1e131071' : '0'),
    ']}',
  ),
  'as many empty containers as fit': filled(`${START}"x":[`, () => '{}', ']}'),
  'one string as long as fits': `${START}"x":"${'é'.repeat((LINE_BYTES_MAX - START.length - 8) / 2)}"}`,
  'one key as long as fits': `${START}"${'k'.repeat(LINE_BYTES_MAX - START.length - 8)}":1}`,
  'one number as long as numeric can be': `${START}"x":-${'9'.repeat(131_072)}.${'9'.repeat(16_383)}}`,
  'objects as deep as may be': `${START}"x":${'{"":'.repeat(NESTED)}1${'}'.repeat(NESTED)}}`,
  'every level filled': `${START}"x":${'[1,{"a":'.repeat(127)}null${'}]'.repeat(127)}}`,
  'white space up to the limit': largest('"x":1'),
  'every character that an escape can name': `${START}"x":"${[...Array(0xffff).keys()]
    .map((n) => n + 1)
    .filter((n) => n < 0xd800 || n > 0xdfff)
    .map((n) => `\\u${n.toString(16).padStart(4, '0')}`)
    .join('')}"}`,
  'characters that are none, and the last one': `{"pk":"\ufffe\uffff\u{10ffff}\\uffff","score":1,"\ufdd0":"\u{1fffe}"}`,
  'control characters in the key': '{"pk":"\\u0001\\n\\u007f\\u0080\\u2028","score":-0,"":{"":""}}',
  'the longest pk, in escapes': `{"pk":"${'\\u20ac'.repeat(682)}ab","score":"5e-324"}`,
};

const refused: Record<string, string> = {
  'NUL in an attribute': `${START}"x":"\\u0000"}`,
  'NUL in a key of an attribute': `${START}"x":{"\\u0000":1}}`,
  'NUL in the pk': '{"pk":"\\u0000","score":1}',
  'half a surrogate pair': `${START}"x":["\\ud800"]}`,
  'half a surrogate pair in the pk': '{"pk":"\\udfff","score":1}',
  'a number beyond numeric': `${START}"x":1e131072}`,
  'a number finer than numeric': `${START}"x":1e-16384}`,
  'a level too many': `${START}"x":${'['.repeat(NESTED + 1)}${']'.repeat(NESTED + 1)}}`,
  'a pk that an index cannot hold': `{"pk":"${'\\u20ac'.repeat(683)}","score":1}`,
  'a score beyond double precision': '{"pk":"a","score":"1e400"}',
  'a line too long by a byte': `${largest('"x":1')} `,
};

describe('at its limits', () => {
  let client: pg.Client;

  before(async function () {
    const databaseUrl = process.env.TEST_DATABASE_URL;
    if (databaseUrl === undefined) return this.skip();
    client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
  });
  after(() => client?.end());

  for (const [name, line] of Object.entries(accepted)) {
    it(`PostgreSQL takes, keys and gives back ${name}`, async () => {
      const { output, rejects, counts } = scanFile(`${line}\n`);
      expect(rejects).to.deep.equal([]);
      expect(counts.rows).to.equal(1);
      await client.query('BEGIN');
      try {
        await client.query(
          'CREATE TABLE score_lines_limits (score double precision NOT NULL, pk text COLLATE "C" NOT NULL, attributes jsonb)',
        );
        const copy = copyFrom(
          `COPY score_lines_limits (${COPY_COLUMNS.join(', ')}) FROM STDIN (FORMAT binary, FREEZE)`,
        );
        await pipeline([COPY_HEAD, output, COPY_TAIL], client.query(copy));
        await client.query('ALTER TABLE score_lines_limits ADD PRIMARY KEY (pk)');
        const { rows } = await client.query<{ pk: string; text: string | null }>(
          'SELECT pk, attributes::text AS text FROM score_lines_limits',
        );
        const { pk, score: _, ...attributes } = JSON.parse(line);
        expect(rows[0]?.pk).to.equal(pk);
        // Numbers beyond double precision are compared elsewhere, by their digits.
        if (!/number/.test(name))
          expect(isDeepStrictEqual(JSON.parse(rows[0]?.text ?? '{}'), attributes)).to.equal(true);
      } finally {
        await client.query('ROLLBACK');
      }
    });
  }

  for (const [name, line] of Object.entries(refused)) {
    it(`the scanner refuses ${name}`, () => {
      const { rejects, counts } = scanFile(`${line}\n`);
      expect([counts.rows, rejects.length]).to.deep.equal([0, 1]);
    });
  }
});
