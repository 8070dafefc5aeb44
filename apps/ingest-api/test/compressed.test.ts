import { createHash } from 'node:crypto';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect } from 'chai';
import {
  patch,
  type RunAnswer,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

describe('compressed files', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
    system.startLoader();
  });
  after(() => system.stop());

  /** Bytes and sha256 of what travels, lines of what is in it. */
  async function push(
    run: string,
    files: { name: string; sent: Buffer; lines: number }[],
  ): Promise<RunAnswer> {
    const declared = await system.request('PUT', runPath('packed', run), {
      json: {
        files: files.map(({ name, sent, lines }) => ({
          name,
          bytes: sent.length,
          sha256: createHash('sha256').update(sent).digest('hex'),
          lines,
        })),
      },
    });
    expect(declared.status).to.equal(201);
    for (const file of ((await declared.json()) as RunAnswer).missing.files) {
      const sent = files.find(({ name }) => name === file.name)?.sent ?? Buffer.alloc(0);
      if (sent.length === 0) continue;
      expect((await patch(system, file.uploadUrl, file.offset, sent)).status).to.equal(204);
    }
    return untilFinal(system, 'packed', run, 20_000);
  }

  it('are loaded beside plain ones, and their rows counted', async () => {
    const run = await push('mixed', [
      { name: 'a.jsonl', sent: Buffer.from(scoreLines(100)), lines: 100 },
      { name: 'b.jsonl.gz', sent: gzipSync(scoreLines(50_000, 1_000)), lines: 50_000 },
      { name: 'c.jsonl.zst', sent: zstdCompressSync(scoreLines(70_000, 100_000)), lines: 70_000 },
    ]);
    expect([run.state, run.rows]).to.deep.equal(['published', 120_100]);
    const [seen] = await system.query(
      'SELECT count(*)::int AS rows, sum(score) = sum(pk::float8) AS same FROM scores.packed',
    );
    expect(seen).to.deep.equal({ rows: 120_100, same: true });
  });

  it('tell line and byte of a bad line within their text', async () => {
    const text = `${scoreLines(3)}oops\n`;
    const run = await push('bad', [{ name: 'a.jsonl.gz', sent: gzipSync(text), lines: 4 }]);
    expect(run.error).to.deep.include({ code: 'bad_lines', line: 4, byte_offset: scoreLines(3).length });
  });

  it('name duplicates within their text too', async () => {
    const run = await push('twice', [
      { name: 'a.jsonl.zst', sent: zstdCompressSync(`${scoreLines(3)}${scoreLines(1)}`), lines: 4 },
    ]);
    expect(run.rejects.first.map(({ line, code }) => [line, code])).to.deep.equal([
      [1, 'duplicate_key'],
      [4, 'duplicate_key'],
    ]);
  });

  it('fail with the reason when they are torn at their source, or expand beyond measure', async () => {
    const torn = gzipSync(scoreLines(5_000)).subarray(0, -20);
    const failed = await push('torn', [{ name: 'a.jsonl.gz', sent: torn, lines: 5_000 }]);
    expect([failed.state, failed.error?.code]).to.deep.equal(['failed', 'corrupt_compression']);
    expect(failed.error?.detail).to.contain('a.jsonl.gz: The file cannot be decompressed as gzip');
    const two = [zstdCompressSync(scoreLines(50)), zstdCompressSync(scoreLines(50, 1_000))];
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = two;
    const cuts = [1, 2, 3, 4, second.length - 4, second.length - 1];
    const files = [
      { name: 'a.jsonl.gz', sent: Buffer.alloc(0), lines: 0 },
      { name: 'a.jsonl.ZST', sent: Buffer.alloc(0), lines: 0 },
      ...cuts.map((bytes) => ({
        name: 'a.jsonl.Zst',
        sent: Buffer.concat([first, second.subarray(0, bytes)]),
        lines: 50,
      })),
    ];
    for (const [index, file] of files.entries()) {
      const good = { name: 'b.jsonl', sent: Buffer.from(scoreLines(3, 5_000)), lines: 3 };
      const { state, error } = await push(`cut-${index}`, [file, good]);
      expect([state, error?.code, error?.file], `${index}`).to.deep.equal([
        'failed',
        'corrupt_compression',
        file.name,
      ]);
    }
    const bomb = zstdCompressSync(Buffer.alloc(80 * 1024 * 1024, ' '));
    const refused = await push('bomb', [{ name: 'a.jsonl.zst', sent: bomb, lines: 1 }]);
    expect([refused.state, refused.error?.code]).to.deep.equal(['failed', 'expansion_too_large']);
  });

  it('are counted by the lines in them', async () => {
    const run = await push('count', [{ name: 'a.jsonl.gz', sent: gzipSync(scoreLines(10)), lines: 9 }]);
    expect(run.error?.code).to.equal('content_mismatch');
    expect(run.error?.detail).to.contain('10 lines instead of 9');
  });
});
