import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { countNewlines } from '../src/source/count-newlines.ts';
import { findRuns } from '../src/source/find-runs.ts';
import { hashFile, hashRun, identityOf, openHashCache } from '../src/source/hash.ts';
import { makeScratch } from './support/scratch.ts';

const BLOCK = 2 ** 20;
const never = new AbortController().signal;

describe('hashing and counting a file', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => scratch.remove());

  it('counts newlines at every offset, length and density, as a plain loop does', () => {
    const seed = Number(process.env.TEST_SEED ?? Date.now());
    console.log(`      seed ${seed} (again: TEST_SEED=${seed})`);
    let state = seed >>> 0;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(Array.from({ length: 64 + random(6000) }, () => random(256)));
      if (random(3) === 0) bytes.fill(10, random(40), random(bytes.length));
      // The neighbours of a newline, which bit tricks like to take for one.
      for (let at = 0; at < 30; at++) bytes[random(bytes.length)] = [9, 10, 11, 0x8a, 0x0a, 0][at % 6] ?? 0;
      const part = bytes.subarray(random(9), bytes.length - random(9));
      const expected = part.filter((byte) => byte === 10).length;
      expect(countNewlines(part), `seed ${seed}, round ${round}`).to.equal(expected);
    }
  });

  const cases: Array<[string, string, number]> = [
    ['an empty file', '', 0],
    ['one newline', '\n', 1],
    ['a last line without its newline', 'a\nb', 2],
    ['a last line with it', 'a\nb\n', 2],
    ['a newline as the last byte of a block', `${'x'.repeat(BLOCK - 1)}\n`, 1],
    ['a newline as the first byte of the next block', `${'x'.repeat(BLOCK)}\n`, 1],
    ['one byte after a full block', `${'x'.repeat(BLOCK - 1)}\ny`, 2],
    ['many blocks', 'line\n'.repeat(900_000), 900_000],
  ];
  for (const [what, text, lines] of cases) {
    it(`finds lines and sha256 of ${what}`, async () => {
      const digest = await hashFile(scratch.write('f', text), never, () => {});
      expect(digest.lines).to.equal(lines);
      expect(digest.sha256).to.equal(createHash('sha256').update(text).digest('hex'));
      expect(digest.identity.bytes).to.equal(text.length);
    });
  }

  for (const [what, bytes] of [
    ['of 64 MiB', 64 * BLOCK],
    ['of more, with a last block that is not full', 65 * BLOCK + 12_345],
  ] as const) {
    it(`counts on a second thread the lines of a file ${what}`, async () => {
      const text = Buffer.alloc(bytes, '{"pk":"a","score":0.5}\n{"pk":"b","score":1}\n');
      const digest = await hashFile(scratch.write('f', text), never, () => {});
      expect(digest.sha256).to.equal(createHash('sha256').update(text).digest('hex'));
      expect(digest.lines).to.equal(countNewlines(text) + (text.at(-1) === 10 ? 0 : 1));
    });
  }

  it('stops on both threads when it is aborted', async () => {
    const stop = new AbortController();
    const path = scratch.write('f', Buffer.alloc(80 * BLOCK, 'x\n'));
    const hashing = hashFile(path, stop.signal, () => stop.abort(new Error('stopped here')));
    expect(await hashing.catch((error: Error) => error.message)).to.equal('stopped here');
  });

  it('stops when it is aborted', async () => {
    const stop = new AbortController();
    const path = scratch.write('f', 'x'.repeat(5 * BLOCK));
    const hashing = hashFile(path, stop.signal, () => stop.abort(new Error('stopped here')));
    expect(await hashing.catch((error: Error) => error.message)).to.equal('stopped here');
  });

  for (const [what, change, says] of [
    ['a file is added', (run: string) => writeFileSync(join(run, 'b.jsonl'), ''), /b\.jsonl was added while/],
    ['a file changes', (run: string) => writeFileSync(join(run, 'a.jsonl'), 'xyz'), /a\.jsonl changed while/],
    ['a file is removed', (run: string) => rmSync(join(run, 'a.jsonl')), /a\.jsonl cannot be read/],
    [
      'a writer starts',
      (run: string) => mkdirSync(join(run, '_temporary')),
      /_temporary: a writer is at work/,
    ],
    ['what is skipped or ignored is added', (run: string) => writeFileSync(join(run, 'b.csv'), ''), /^$/],
  ] as const)
    it(`says when ${what} while the files of a run are hashed`, async () => {
      const path = scratch.write('m/1/a.jsonl', 'x');
      const { runs, ignored } = await findRuns(scratch.path, null, null, ['*.csv']);
      const [run] = runs;
      if (run === undefined) throw new Error('no run');
      const cache = await openHashCache(null, run.folder, () => {});
      const changed = { ...cache, add: () => change(dirname(path)) };
      const hashing = hashRun(run, changed, never, { totalBytes: 0, hashedBytes: 0 }).then(() => '');
      expect(await hashing.catch((error: Error) => error.message)).to.match(says);
      expect(ignored).to.deep.equal([]);
    });

  describe('is kept', () => {
    const anHourAgo = () => new Date(Date.now() - 3_600_000);
    const aged = (text: string): string => {
      const path = scratch.write('run/f.jsonl', text);
      utimesSync(path, anHourAgo(), anHourAgo());
      return path;
    };
    const identify = async (path: string) => identityOf(await stat(path, { bigint: true }));
    const open = (warnings: string[] = []) =>
      openHashCache(join(scratch.path, 'state'), join(scratch.path, 'run'), (warning) =>
        warnings.push(warning),
      );

    it('until the file has another size, time or inode', async () => {
      const path = aged('one\n');
      const first = await open();
      first.add(path, await hashFile(path, never, () => {}));
      await first.save();
      const second = await open();
      expect(second.find(path, await identify(path))?.lines).to.equal(1);
      utimesSync(path, new Date(), new Date());
      expect(second.find(path, await identify(path))).to.equal(null);
    });

    it('not at all when the file was written a moment ago, and could be again unnoticed', async () => {
      const path = scratch.write('run/f.jsonl', 'one\n');
      const digest = await hashFile(path, never, () => {});
      const cache = await open();
      cache.add(path, {
        ...digest,
        identity: { ...digest.identity, mtimeNs: String(BigInt(Date.now()) * 1_000_000n) },
      });
      expect(cache.find(path, digest.identity)).to.equal(null);
    });

    it('in a folder whose other contents do not matter', async () => {
      const path = aged('one\n');
      const first = await open();
      first.add(path, await hashFile(path, never, () => {}));
      await first.save();
      for (const garbage of [
        '',
        '{',
        'null',
        '[]',
        '{"version":1,"files":{"x":{"sha256":7}}}',
        '{"version":2,"files":{}}',
      ]) {
        writeGarbage(garbage);
        expect((await open()).find(path, await identify(path)), garbage).to.equal(null);
      }
    });

    function writeGarbage(text: string): void {
      for (const name of readdirSync(join(scratch.path, 'state')))
        writeFileSync(join(scratch.path, 'state', name), text);
    }
  });
});
