import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { expect } from 'chai';
import { eventually } from './support/eventually.ts';
import { declare, getRun, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

const ENCODERS = {
  zstd: (bytes: Buffer) => zstdCompressSync(bytes),
  gzip: (bytes: Buffer) => gzipSync(bytes),
} as const;
type Coding = keyof typeof ENCODERS;
const CODINGS: readonly Coding[] = ['zstd', 'gzip'];

describe('a body with a Content-Encoding', () => {
  let system: TestSystem;
  let runs = 0;
  before(async () => {
    system = await startSystem();
    system.startLoader();
  });
  after(() => system.stop());

  /** A run of one file that waits for its bytes. */
  async function open(content: Buffer): Promise<{ run: string; url: string }> {
    runs += 1;
    const run = `r${runs}`;
    const declared = await declare(system, 'coded', run, [{ name: 'a.jsonl', content }]);
    return { run, url: declared.missing.files[0]?.uploadUrl ?? '' };
  }
  const headersOf = (offset: number, coding: string) => ({
    'tus-resumable': '1.0.0',
    'upload-offset': String(offset),
    'content-type': 'application/offset+octet-stream',
    'content-encoding': coding,
  });
  const patch = (url: string, offset: number, body: Buffer, coding: string) =>
    system.request('PATCH', url, { body: new Uint8Array(body), headers: headersOf(offset, coding) });
  const offsetOf = async (url: string) => {
    const answer = await system.request('HEAD', url, { headers: { 'tus-resumable': '1.0.0' } });
    return Number(answer.headers.get('upload-offset'));
  };
  const problemOf = async (answer: Response) => {
    const { code, detail } = (await answer.json()) as { code: string; detail: string };
    return { status: answer.status, code, detail };
  };
  const published = async (run: string) => {
    const { state, rows } = await untilFinal(system, 'coded', run);
    return { state, rows };
  };
  let seed = 0;
  const lines = (count: number) => {
    seed += 1_000_000;
    return Buffer.from(scoreLines(count, seed));
  };

  it('is stored decoded, and offsets count the decoded bytes; each request may have another coding', async () => {
    const content = lines(60_000);
    const { run, url } = await open(content);
    const cuts = [0, 100_000, 100_001, 700_000, content.length];
    const codings = ['zstd', 'gzip', 'identity', 'X-GZIP'];
    for (const [index, coding] of codings.entries()) {
      const [from = 0, to = 0] = cuts.slice(index);
      const part = content.subarray(from, to);
      const body = coding === 'zstd' ? zstdCompressSync(part) : coding === 'identity' ? part : gzipSync(part);
      const answer = await patch(url, from, body, coding);
      expect([answer.status, answer.headers.get('upload-offset')], coding).to.deep.equal([204, String(to)]);
    }
    expect(await published(run)).to.deep.equal({ state: 'published', rows: 60_000 });
  });

  it('may be several frames or members, at the highest level, in chunks, or empty', async () => {
    const content = lines(30_000);
    const { run, url } = await open(content);
    const half = content.length >> 1;
    const strong = {
      params: { [constants.ZSTD_c_compressionLevel]: 19, [constants.ZSTD_c_checksumFlag]: 1 },
    };
    const frames = Buffer.concat([
      zstdCompressSync(content.subarray(0, 1000), strong),
      zstdCompressSync(Buffer.alloc(0)),
      Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]), // a skippable frame
      zstdCompressSync(content.subarray(1000, half), strong),
    ]);
    expect((await patch(url, 0, zstdCompressSync(Buffer.alloc(0)), 'zstd')).status).to.equal(204);
    expect((await patch(url, 0, frames, 'zstd')).headers.get('upload-offset')).to.equal(String(half));
    const members = Buffer.concat([
      gzipSync(content.subarray(half, half + 9)),
      gzipSync(content.subarray(half + 9)),
    ]);
    const chunked = request(new URL(url, system.url), {
      method: 'PATCH',
      headers: { ...headersOf(half, 'gzip'), authorization: `Bearer ${system.token}` },
    });
    for (const byte of members.subarray(0, 40)) chunked.write(Buffer.from([byte]));
    chunked.end(members.subarray(40));
    const [answer] = await once(chunked, 'response');
    expect([answer.statusCode, answer.headers['upload-offset']]).to.deep.equal([204, String(content.length)]);
    answer.resume();
    expect(await published(run)).to.deep.equal({ state: 'published', rows: 30_000 });
  });

  it('may also come with the creation of an upload', async () => {
    const content = lines(1_000);
    const metadata = Object.entries({ model: 'coded', run: 'created', filename: 'a.jsonl' })
      .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
      .join(',');
    const answer = await system.request('POST', '/v1/uploads', {
      body: new Uint8Array(zstdCompressSync(content)),
      headers: {
        ...headersOf(0, 'zstd'),
        'upload-length': String(content.length),
        'upload-metadata': metadata,
      },
    });
    expect([answer.status, answer.headers.get('upload-offset')]).to.deep.equal([201, String(content.length)]);
    expect(await published('created')).to.deep.equal({ state: 'published', rows: 1_000 });
  });

  for (const coding of CODINGS) {
    it(`is sent by the command in docs/api.md, with ${coding}`, async function () {
      const api = await readFile(path.join(import.meta.dirname, '../../../docs/api.md'), 'utf8');
      const [, command = ''] = /```sh\n(tail -c [^`]*Content-Encoding: gzip[^`]*)```/.exec(api) ?? [];
      expect(command).to.include('gzip -c');
      const run = promisify(execFile);
      const hasTools = await run('sh', ['-c', `command -v curl && command -v ${coding}`]).then(
        () => true,
        () => false,
      );
      if (!hasTools) return this.skip();
      const content = Buffer.from(`{"pk":"1","score":0.5,"why":"${coding}"}\n{"pk":"2","score":0.25}\n`);
      const { run: key, url } = await open(content);
      expect((await patch(url, 0, content.subarray(0, 31), 'identity')).status).to.equal(204);
      const cwd = await mkdtemp(path.join(tmpdir(), 'api-doc-'));
      try {
        await writeFile(path.join(cwd, 'scores.jsonl'), content);
        const env = {
          ...process.env,
          auth: `Authorization: Bearer ${system.token}`,
          upload: new URL(url, system.url).href,
        };
        const { stdout } = await run('sh', ['-c', command.replaceAll('gzip', coding)], { cwd, env });
        expect(stdout).to.match(/^HTTP\/1\.1 204/);
        expect(stdout.toLowerCase()).to.include(`upload-offset: ${content.length}`);
      } finally {
        await rm(cwd, { recursive: true });
      }
      expect(await published(key)).to.deep.equal({ state: 'published', rows: 2 });
    });
  }

  it('is advertised by OPTIONS, and by the 415 for another coding, or for two', async () => {
    const options = await system.request('OPTIONS', '/v1/uploads', {});
    expect([options.status, options.headers.get('accept-encoding')]).to.deep.equal([204, 'zstd, gzip']);
    const { url } = await open(lines(10));
    for (const coding of ['br', 'deflate', 'gzip, zstd', 'zstd;q=1']) {
      const answer = await patch(url, 0, Buffer.from('x'), coding);
      expect(answer.headers.get('accept-encoding'), coding).to.equal('zstd, gzip');
      const { status, code } = await problemOf(answer);
      expect([status, code], coding).to.deep.equal([415, 'unsupported_media_type']);
    }
    expect(await offsetOf(url)).to.equal(0);
  });

  for (const coding of CODINGS) {
    it(`that is cut keeps what decodes (${coding}), and the rest can follow`, async () => {
      const content = lines(60_000);
      const { run, url } = await open(content);
      const body = ENCODERS[coding](content);
      const cut = request(new URL(url, system.url), {
        method: 'PATCH',
        headers: {
          ...headersOf(0, coding),
          authorization: `Bearer ${system.token}`,
          'content-length': body.length,
        },
      });
      cut.on('error', () => {});
      cut.write(body.subarray(0, Math.floor(body.length * 0.9)));
      // Recorded while the rest of the body is still missing.
      const { bytes } = await eventually(
        () => getRun(system, 'coded', run),
        (answer) => answer.bytes.received > content.length * 0.6,
      );
      cut.destroy();
      const offset = await offsetOf(url);
      expect(offset).to.be.within(bytes.received, content.length - 1);
      expect((await patch(url, offset, ENCODERS[coding](content.subarray(offset)), coding)).status).to.equal(
        204,
      );
      expect(await published(run)).to.deep.equal({ state: 'published', rows: 60_000 });
    });

    it(`that is not what its header says is a 400, and what was decoded before counts (${coding})`, async () => {
      const content = lines(60_000);
      const whole = ENCODERS[coding](content);
      const bodies = {
        ...Object.fromEntries(
          [1, 2, 3, 4, 9].map((bytes) => [`${bytes} bytes short`, whole.subarray(0, -bytes)]),
        ),
        'followed by other bytes': Buffer.concat([whole, Buffer.from('other bytes')]),
        'damaged in its middle': Buffer.concat([
          whole.subarray(0, whole.length >> 1),
          Buffer.alloc(4_000, 0xff),
          whole.subarray((whole.length >> 1) + 4_000),
        ]),
        'not compressed': content,
      };
      for (const [what, body] of Object.entries(bodies)) {
        const { url } = await open(Buffer.concat([content, lines(1)]));
        const { status, code, detail } = await problemOf(await patch(url, 0, body, coding));
        expect([status, code], what).to.deep.equal([400, 'invalid_request']);
        expect(detail, what).to.include(`cannot be decoded as ${coding}`);
        expect(await offsetOf(url), what).to.be.at.most(content.length);
      }
    });

    it(`is refused at the declared length, whatever it expands to (${coding})`, async () => {
      const content = lines(100);
      const { url } = await open(content);
      const bomb = ENCODERS[coding](Buffer.alloc(256 * 2 ** 20));
      expect(bomb.length).to.be.below(300_000);
      const { status, code } = await problemOf(await patch(url, 0, bomb, coding));
      expect([status, code]).to.deep.equal([413, 'too_large']);
      expect(await offsetOf(url)).to.be.below(content.length);
    });
  }

  it('is refused when it is longer than the upload itself: frames without content have no other limit', async () => {
    const { url } = await open(lines(100));
    const frame = Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 2, 0]), Buffer.alloc(2 ** 17)]);
    const { status, code } = await problemOf(
      await patch(url, 0, Buffer.concat(Array.from({ length: 20 }, () => frame)), 'zstd'),
    );
    expect([status, code]).to.deep.equal([413, 'too_large']);
  });

  it('is refused when its decoder would need more than 8 MiB', async () => {
    const content = Buffer.concat([lines(700_000)]);
    const { url } = await open(content);
    const long = { params: { [constants.ZSTD_c_windowLog]: 24 } };
    const { status, detail } = await problemOf(await patch(url, 0, zstdCompressSync(content, long), 'zstd'));
    expect([status, detail]).to.deep.equal([400, detail]);
    expect(await offsetOf(url)).to.equal(0);
  });
});
