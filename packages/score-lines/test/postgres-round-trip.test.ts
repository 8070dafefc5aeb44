import { pipeline } from 'node:stream/promises';
import { expect } from 'chai';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { COPY_COLUMNS, COPY_HEAD, COPY_TAIL } from '../src/index.ts';
import { generateLine } from './generated-lines.ts';
import { expectationOf, modelOf, spell, spellDecimal } from './oracle.ts';
import { createRandom, fileSizes, type Random, testLineCount, testSeed, timeoutMs } from './random.ts';
import { readCopyBinary, scanFile } from './scan-file.ts';

describe('score-lines and PostgreSQL', () => {
  let client: pg.Client;

  before(async function () {
    // Read here: the fixture that starts PostgreSQL sets it after the test files are loaded.
    const databaseUrl = process.env.TEST_DATABASE_URL;
    if (databaseUrl === undefined) return this.skip();
    client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
  });

  after(async () => {
    await client?.end();
  });

  /** Copies rows into a new table, as the loader does, and returns its content from PostgreSQL, in order. */
  async function copyAndRead(
    output: Buffer,
  ): Promise<{ score: string; pk: string; attributes: string | null }[]> {
    await client.query('BEGIN');
    try {
      await client.query(
        `CREATE TABLE score_lines_round_trip (score double precision NOT NULL, revision_id integer NOT NULL DEFAULT 1,
           pk text COLLATE "C", attributes jsonb, place bigint GENERATED ALWAYS AS IDENTITY)`,
      );
      const columns = COPY_COLUMNS.join(', ');
      const copy = copyFrom(`COPY score_lines_round_trip (${columns}) FROM STDIN (FORMAT binary, FREEZE)`);
      await pipeline([COPY_HEAD, output, COPY_TAIL], client.query(copy));
      const result = await client.query(
        'SELECT score::text, pk, attributes::text FROM score_lines_round_trip ORDER BY place',
      );
      return result.rows;
    } finally {
      await client.query('ROLLBACK');
    }
  }

  it('stores of generated lines what they say, for each that is not refused', async function () {
    const lineCount = testLineCount(30_000);
    this.timeout(timeoutMs(lineCount));
    const random = createRandom(testSeed());
    let storedRows = 0;
    let refusedLines = 0;
    for (const size of fileSizes(lineCount)) {
      const { stored, refused } = await storeFile(random, size);
      storedRows += stored;
      refusedLines += refused;
    }
    console.log(`      ${lineCount} lines: ${storedRows} rows stored and read back, ${refusedLines} refused`);
  });

  async function storeFile(random: Random, lineCount: number): Promise<{ stored: number; refused: number }> {
    const lines = Array.from({ length: lineCount }, () => generateLine(random));
    const { output, rejects } = scanFile(Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')])));
    const stored = await copyAndRead(output);

    const refused = new Set(rejects.map((rejected) => rejected.line));
    let storedAt = 0;
    for (const [index, line] of lines.entries()) {
      const expected = expectationOf(line);
      if (expected.outcome !== 'row') continue;
      if (refused.has(index + 1)) expect.fail(`line ${index + 1} was refused: ${line}`);
      const row = stored[storedAt++];
      expect(row?.pk).to.equal(expected.pk);
      if (!Object.is(Number(row?.score), Number(expected.score))) {
        expect.fail(`line ${index + 1}: the score ${expected.score} became ${row?.score}`);
      }
      const attributes = row?.attributes == null ? null : spell(modelOf(row.attributes), spellDecimal);
      expect(attributes).to.equal(expected.attributes && spell(expected.attributes, spellDecimal));
    }
    expect(stored).to.have.length(storedAt);
    return { stored: storedAt, refused: rejects.length };
  }

  const edges = [
    ...[
      '1e131071',
      '1e131072',
      '9.99e131071',
      '12345e131067',
      '12345e131068',
      '0.00001e131076',
      '0.00001e131077',
    ],
    ...[
      '1e-16383',
      '1e-16384',
      '1.0e-16383',
      '10e-16384',
      '0e-16383',
      '0e-16384',
      '0e1000000000',
      '0.00e1',
      '-0',
    ],
    ...[`${'9'.repeat(131_072)}.${'9'.repeat(16_383)}`, '9'.repeat(131_073), `0.${'0'.repeat(16_384)}`],
    ...[
      `0.${'0'.repeat(20_000)}1e20000`,
      `1${'0'.repeat(140_000)}e-10000`,
      '1e2147483647',
      '1e-99999999999999999999',
    ],
  ];

  it('agree about the numbers that jsonb can hold, at the edges', async () => {
    for (const number of edges) {
      const taken = await client.query('SELECT $1::jsonb', [number]).then(
        () => true,
        (error: pg.DatabaseError) => {
          expect(error.code, error.message).to.equal('22003');
          return false;
        },
      );
      const { counts } = scanFile(`{"pk":"a","score":1,"x":${number}}\n`);
      expect(counts.rows === 1, number.slice(0, 60)).to.equal(taken);
    }
  });

  const scoreEdges = [
    ...[
      '1.7976931348623158e308',
      '1.7976931348623159e308',
      '2.4703282292062327e-324',
      '2.4703282292062328e-324',
    ],
    ...['-1e400', '1e-400', '0e400', '-0e-400', '9'.repeat(308), '9'.repeat(309), `0.${'0'.repeat(323)}2`],
    ...[`0.${'0'.repeat(323)}3`, `${'1'.repeat(100_000)}e-99999`, '5e-324', '0e99999999999999999999'],
  ];

  it('agree about the scores that double precision can hold, at the edges', async () => {
    for (const number of scoreEdges) {
      const taken = await client.query('SELECT $1::float8', [number]).then(
        () => true,
        (error: pg.DatabaseError) => {
          expect(error.code, error.message).to.equal('22003');
          return false;
        },
      );
      const { counts } = scanFile(`{"pk":"a","score":"${number}"}\n`);
      expect(counts.rows === 1, number.slice(0, 60)).to.equal(taken);
    }
  });

  it('agree that the longest pk fits into the primary key', async () => {
    const random = createRandom(1);
    const pk = Array.from({ length: 2048 }, () => String.fromCharCode(0x5d + random.int(30))).join('');
    const { output } = scanFile(`{"pk":"${pk}","score":1}\n`);
    await client.query('CREATE TEMPORARY TABLE longest_pk (pk text COLLATE "C" PRIMARY KEY)');
    await client.query('INSERT INTO longest_pk VALUES ($1)', [readCopyBinary(output)[0]?.pk]);
    await client.query('DROP TABLE longest_pk');
  });
});
