import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { expect } from 'chai';
import { HttpFault } from '../src/http/http-fault.ts';
import { createCompression } from '../src/send/compression.ts';
import type { HashedFile } from '../src/source/hash.ts';
import { type IngestServer, startIngestServer } from './support/ingest-server.ts';
import { lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';

const MIB = 2 ** 20;
const CHUNK_BYTES = 64 * MIB;

describe('--compress', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
  });
  afterEach(async () => {
    await server.stop();
    scratch.remove();
  });

  const fileOf = (name: string, content: string): HashedFile => {
    const path = scratch.write(name, content);
    const identity = { bytes: content.length, mtimeNs: '0', inode: '0' };
    return { name, path, sha256: '', lines: 0, identity } as HashedFile;
  };
  /** Sends requests at a rate until they carry whole chunks, or are compressed. @returns what was said. */
  async function send(file: HashedFile, bytesPerSecond: number, mode: 'auto' | 'off' | 'zstd' = 'auto') {
    const said: string[] = [];
    const compression = createCompression(mode, CHUNK_BYTES, (sentence) => said.push(sentence));
    const requests = [];
    for (let turn = 0; turn < 8; turn += 1) {
      const cargo = await compression.next(file, 10 * CHUNK_BYTES);
      requests.push(cargo);
      const wireBytes = cargo.isCompressed ? cargo.bytes / 8 : cargo.bytes;
      compression.sent({ ...cargo, wireBytes, tookMs: (wireBytes / bytesPerSecond) * 1000 });
    }
    return { said, requests, compression };
  }

  it('auto compresses after the first small request when the connection is slow, and says so', async () => {
    const { said, requests } = await send(fileOf('a.jsonl', scoreLines(4 * MIB)), 5e6);
    expect(requests[0]).to.deep.equal({ bytes: 2 * MIB, isCompressed: false });
    for (const request of requests.slice(1))
      expect(request).to.deep.equal({ bytes: CHUNK_BYTES, isCompressed: true });
    expect(said).to.have.length(1);
    expect(said[0]).to.match(/^Sending compressed \(zstd\): the connection takes 5\.0 MB\/s, compression /);
  });

  it('auto sends larger requests as they are when the connection is fast, and decides so', async () => {
    const { said, requests } = await send(fileOf('a.jsonl', scoreLines(4 * MIB)), 5e9);
    expect(requests.slice(0, 3).map(({ bytes }) => bytes / MIB)).to.deep.equal([2, 16, 64]);
    expect(requests.some(({ isCompressed }) => isCompressed)).to.equal(false);
    expect(said.join()).to.not.include('Sending compressed');
  });

  it('leaves alone what is compressed already, what does not shrink, and what is small', async () => {
    const packed = await send(fileOf('a.jsonl.gz', scoreLines(4 * MIB)), 5e6);
    const random = await send(fileOf('b.jsonl', randomBytes(MIB).toString('base64')), 5e6);
    for (const { requests } of [packed, random])
      expect(requests.some(({ isCompressed }) => isCompressed)).to.equal(false);
    expect(random.said.join()).to.include('Sending uncompressed: the connection takes 5.0 MB/s');
    const { compression } = await send(fileOf('c.jsonl', scoreLines(4 * MIB)), 5e6, 'zstd');
    expect((await compression.next(fileOf('d.jsonl', 'x'), 1000)).isCompressed).to.equal(false);
  });

  it('off never compresses; zstd always does', async () => {
    const file = fileOf('a.jsonl', scoreLines(4 * MIB));
    expect((await send(file, 5e6, 'off')).requests.every(({ isCompressed }) => !isCompressed)).to.equal(true);
    expect((await send(file, 5e9, 'zstd')).requests.every(({ isCompressed }) => isCompressed)).to.equal(true);
  });

  const push = async (...args: string[]) => {
    const { exitCode, stdout, stderr } = await startUploader(
      ['push', join(scratch.path, 'data'), '--poll', '100ms', '--json', ...args],
      { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: scratch.path },
    ).finished;
    expect(exitCode, stderr).to.equal(0);
    return { run: JSON.parse(lastLine(stdout)).runs[0], stderr };
  };

  it('a service that takes no coding gets the bytes as they are', async () => {
    scratch.write('data/churn/2026-11/a.jsonl', scoreLines(2 * MIB));
    scratch.write('data/churn/2026-11/b.jsonl', scoreLines(2 * MIB, 900_000));
    server.takesCompressed = false;
    const { run, stderr } = await push('--compress', 'zstd');
    expect(run.state).to.equal('published');
    expect(stderr.match(/The service does not take compressed bodies/g)).to.have.length(1);
    expect(server.receivedBytes()).to.equal(run.bytesTotal);
  });

  for (const status of [400, 403, 411, 501])
    it(`a proxy that answers ${status} to compressed bodies gets the bytes as they are, from then on`, async () => {
      scratch.write('data/churn/2026-11/a.jsonl', scoreLines(MIB));
      scratch.write('data/churn/2026-11/b.jsonl', scoreLines(MIB, 900_000));
      server.intercept = (request, response) => {
        if (request.headers['content-encoding'] === undefined) return false;
        request.resume();
        response.writeHead(status, { 'Content-Type': 'text/html' }).end('<h1>Blocked</h1>');
        return true;
      };
      const { run, stderr } = await push('--compress', 'zstd');
      expect(stderr).to.match(
        new RegExp(
          `^A proxy does not take compressed bodies \\(\\S+ answered ${status}: Blocked\\): sending unc`,
          'm',
        ),
      );
      expect(stderr.match(/A proxy does not take/g)).to.have.length(1);
      expect(stderr).to.not.include('retrying');
      expect(server.receivedBytes()).to.equal(run.bytesTotal);
    });

  it('is the reason of a refusal only if no compressed body has passed, and the answer is about the body', () => {
    const of = (status: number, type: string, body = '{"request_id":"1"}') =>
      new HttpFault({ method: 'PATCH', url: 'http://h/', status, headers: { 'content-type': type }, body });
    const ours = (status: number) => of(status, 'application/problem+json');
    const page = (status: number) => of(status, 'text/html', 'Page');
    const packed = { bytes: MIB, isCompressed: true };
    const isRefused = (fault: HttpFault, hasPassed: boolean) => {
      const compression = createCompression('zstd', CHUNK_BYTES, () => {});
      if (hasPassed) compression.sent({ ...packed, wireBytes: 1000, tookMs: 100 });
      expect(compression.refused({ bytes: MIB, isCompressed: false }, fault)).to.equal(false);
      return compression.refused(packed, fault);
    };
    for (const status of [400, 403, 404, 405, 411, 501, 505]) {
      expect([isRefused(page(status), false), isRefused(page(status), true)]).to.deep.equal([true, false]);
      expect(isRefused(ours(status), false), `our ${status}`).to.equal(false);
    }
    for (const status of [200, 302, 407, 408, 413, 423, 429, 500, 502, 503, 504])
      expect(isRefused(page(status), false), `${status}`).to.equal(false);
    for (const fault of [page(415), ours(415)]) expect(isRefused(fault, true)).to.equal(true);
  });

  it('counts the bytes of the files and those on the wire; --bwlimit limits the latter', async () => {
    scratch.write('data/churn/2026-11/a.jsonl', scoreLines(4 * MIB));
    const { run } = await push('--compress', 'zstd', '--bwlimit', '400kB');
    expect(run.bytesSent).to.equal(run.bytesTotal);
    expect(run.bytesOnWire).to.be.below(run.bytesSent / 3);
    expect(run.bytesOnWire / run.seconds).to.be.below(480_000);
  });
});
