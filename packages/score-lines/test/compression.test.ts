import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { expect } from 'chai';
import { CompressionFault, compressionOf, expand } from '../src/index.ts';

const text = Buffer.from(
  Array.from({ length: 20_000 }, (_, n) => `{"pk":${n},"score":${n % 97}}\n`).join(''),
);
const garbage = Buffer.from('what is this');

/** Yields the pieces in one shared buffer that each piece overwrites, as a file reader does. */
async function* pieces(file: Buffer, sizeBytes: number): AsyncGenerator<Buffer> {
  const shared = Buffer.alloc(sizeBytes);
  for (let at = 0; at < file.length; at += sizeBytes) {
    const length = file.copy(shared, 0, at, at + sizeBytes);
    yield shared.subarray(0, length);
    shared.fill(0xff);
  }
}

async function expanded(file: Buffer, compression: 'gzip' | 'zstd', sizeBytes = 1000): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of expand(pieces(file, sizeBytes), compression, file.length)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function faultOf(file: Buffer, compression: 'gzip' | 'zstd', sizeBytes = 1000): Promise<string> {
  try {
    await expanded(file, compression, sizeBytes);
  } catch (error) {
    if (error instanceof CompressionFault) return error.code;
    throw error;
  }
  return 'none';
}

describe('a compressed file', () => {
  it('is known by its name', () => {
    expect(['a.jsonl', 'a.jsonl.gz', 'A.JSONL.GZ', 'a.ndjson.zst', 'gz'].map(compressionOf)).to.deep.equal([
      undefined,
      'gzip',
      'gzip',
      'zstd',
      undefined,
    ]);
  });

  for (const [compression, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ] as const) {
    describe(`of ${compression}`, () => {
      const file = compress(text);

      it('gives its text, in one member or several, however it is read', async () => {
        expect((await expanded(file, compression)).equals(text)).to.equal(true);
        expect((await expanded(file, compression, 61)).equals(text)).to.equal(true);
        const two = Buffer.concat([compress(text.subarray(0, 1000)), compress(text.subarray(1000))]);
        expect((await expanded(two, compression)).equals(text)).to.equal(true);
      });

      it('is refused when it is cut, followed by something else, or not compressed', async () => {
        for (const bad of [
          file.subarray(0, -3),
          file.subarray(0, 30),
          Buffer.concat([file, garbage]),
          Buffer.concat([file, Buffer.alloc(100)]),
          text,
        ]) {
          expect(await faultOf(bad, compression)).to.equal('corrupt_compression');
        }
      });

      it('is refused when it is cut anywhere in either of two members, and when it has no bytes', async () => {
        const lines = (first: number) =>
          Buffer.from(Array.from({ length: 8 }, (_, n) => `{"pk":${first + n},"score":${n % 7}}\n`).join(''));
        const head = compress(lines(0));
        const two = Buffer.concat([head, compress(lines(100))]);
        const accepted: number[] = [];
        for (let bytes = 0; bytes <= two.length; bytes++) {
          // Byte by byte, and all at once: a member may end where a chunk ends, or not.
          const faults = [
            await faultOf(two.subarray(0, bytes), compression, 1),
            await faultOf(two.subarray(0, bytes), compression, 1000),
          ];
          if (faults.includes('none')) accepted.push(bytes);
        }
        // Cut between the members it is a complete file: only the manifest's hash shows that it was longer.
        expect(accepted).to.deep.equal([head.length, two.length]);
      });

      it('is refused when it expands too much, without using that much memory', async () => {
        const bomb = compress(Buffer.alloc(128 * 1024 * 1024, 0x20));
        expect(bomb.length).to.be.below(300_000);
        const before = process.memoryUsage.rss();
        expect(await faultOf(bomb, compression)).to.equal('expansion_too_large');
        expect(process.memoryUsage.rss() - before).to.be.below(200 * 1024 * 1024);
      });
    });
  }

  it('of zstd is whole with and without checksum and size, with skippable frames, and at every level', async () => {
    const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    for (const level of [1, 3, 9, 19]) {
      for (const checksum of [0, 1]) {
        for (const contentSize of [0, 1]) {
          const params = {
            [constants.ZSTD_c_compressionLevel]: level,
            [constants.ZSTD_c_checksumFlag]: checksum,
            [constants.ZSTD_c_contentSizeFlag]: contentSize,
          };
          const frame = zstdCompressSync(text, { params });
          const none = zstdCompressSync(Buffer.alloc(0), { params });
          const same = zstdCompressSync(Buffer.alloc(300_000, 0x20), { params });
          const file = Buffer.concat([skippable, frame, none, skippable, same]);
          expect((await expanded(file, 'zstd', 777)).length).to.equal(text.length + 300_000);
          for (let cut = 1; cut <= 8; cut++) {
            expect(await faultOf(file.subarray(0, -cut), 'zstd'), `${cut} bytes cut`).to.equal(
              'corrupt_compression',
            );
          }
        }
      }
    }
  });

  it('of zstd may look back 16 MiB, and is refused when it asks for the memory of more', async () => {
    /** A frame of one raw block (RFC 8878 §3.1.1) that asks for a window of 2^windowLog bytes. */
    const frame = (windowLog: number, content: Buffer) => {
      const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, (windowLog - 10) << 3, 0, 0, 0]);
      head.writeUIntLE((content.length << 3) | 1, 6, 3);
      return Buffer.concat([head, content]);
    };
    const line = Buffer.from('{"pk":1,"score":1}\n');
    expect(await expanded(frame(24, line), 'zstd')).to.deep.equal(line);
    const refused = await expanded(frame(25, line), 'zstd').catch((error: Error) => error);
    expect(refused).to.be.instanceOf(CompressionFault);
    expect((refused as Error).message).to.contain('a window of more than 16 MiB');
  });

  it('passes on what its source fails with', async () => {
    async function* failing(): AsyncGenerator<Buffer> {
      yield gzipSync(text).subarray(0, 100);
      throw new Error('the disk is gone');
    }
    const reading = (async () => {
      for await (const _ of expand(failing(), 'gzip', 100_000));
    })();
    const error = await reading.then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.message).to.equal('the disk is gone');
  });

  it('may be left in the middle', async () => {
    const file = gzipSync(text);
    let chunks = 0;
    for await (const _ of expand(pieces(file, 100), 'gzip', file.length)) {
      chunks += 1;
      break;
    }
    expect(chunks).to.equal(1);
  });
});
