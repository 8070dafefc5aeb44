import { once } from 'node:events';
import type { Socket } from 'node:net';
import { expect } from 'chai';
import pg from 'pg';
import { loadServeConfig } from '../src/config.ts';
import { collect, openSocket, sendRaw, untilClosed } from './support/raw-http.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });

/** Long enough for honest requests of a busy machine, short enough to wait for. */
const IDLE_MS = 3_000;

describe('a hostile connection', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem({ idleTimeoutMs: IDLE_MS, guard: { ...guard, maxConnections: 60 } });
  });
  after(() => system.stop());
  afterEach(async () => {
    const alive = () => system.request('GET', '/readyz', { token: null }).catch(() => undefined);
    await eventually(alive, (answer) => answer?.status === 200, 30_000);
  });

  const patchHead = (url: string, length: number) =>
    `PATCH ${url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${system.token}\r\nTus-Resumable: 1.0.0\r\n` +
    `Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: ${length}\r\nConnection: close\r\n\r\n`;

  async function newUpload(run: string, content: string): Promise<string> {
    const declared = await eventually(
      () => declare(system, 'churn', run, [{ name: 'a.jsonl', content }]).catch(() => undefined),
      (answer) => answer !== undefined,
    );
    return declared?.missing.files[0]?.uploadUrl ?? '';
  }

  /** A kept connection may be closed just when it is used again: ask once more. */
  function offsetOnceMoved(run: string): Promise<number> {
    const offset = () =>
      getRun(system, 'churn', run).then(
        ({ bytes }) => bytes.received,
        () => 0,
      );
    return eventually(offset, (bytes) => bytes > 0, 30_000);
  }

  /** Writes `text` a byte at a time until the server closes. */
  async function trickle(socket: Socket, text: string, everyMs: number): Promise<void> {
    let sent = 0;
    const dripping = setInterval(() => socket.write(text[sent++ % text.length] ?? ' '), everyMs);
    await untilClosed(socket);
    clearInterval(dripping);
  }

  it('that says nothing is closed after the idle time-out', async () => {
    const socket = await openSocket(system.url);
    expect((await collect(socket, 20_000)).closed).to.equal(true);
  });

  it('that stops in the middle of a header is closed', async () => {
    const answer = await sendRaw(system.url, 'GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ', 20_000);
    expect(answer.closed).to.equal(true);
    expect(answer.statuses).not.to.include(200);
  });

  it('that stops in the middle of a body is closed, and what came stays', async () => {
    const url = await newUpload('stops', scoreLines(100));
    const answer = await sendRaw(system.url, `${patchHead(url, 1_000)}half`, 20_000);
    expect(answer.closed).to.equal(true);
    expect(await offsetOnceMoved('stops')).to.equal(4);
  });

  it('that trickles a body, byte by byte, is cut for being too slow; what arrived stays, and others may continue from it', async () => {
    const url = await newUpload('trickles', scoreLines(10_000));
    const socket = await openSocket(system.url);
    socket.write(patchHead(url, 100_000));
    const startedMs = performance.now();
    await trickle(socket, '{"pk":"1"', 50);
    expect(performance.now() - startedMs).to.be.lessThan(30_000);
    await offsetOnceMoved('trickles');
    // HEAD waits until the request that was cut has written all that arrived; the run shows each record of it.
    const head = await system.request('HEAD', url, { headers: { 'tus-resumable': '1.0.0' } });
    const offset = Number(head.headers.get('upload-offset'));
    expect(offset).to.be.within(1, 3 * 1_024);
    expect((await patch(system, url, offset, Buffer.from('x'))).status).to.equal(204);
  });

  it('that sends as fast as it should is not cut, however long it takes', async () => {
    const content = 'x'.repeat(40_000);
    const url = await newUpload('steady', content);
    const socket = await openSocket(system.url);
    const answer = collect(socket, 30_000);
    socket.write(patchHead(url, content.length));
    let sent = 0;
    while (sent < content.length && !socket.destroyed) {
      socket.write(content.slice(sent, sent + 1_000));
      sent += 1_000;
      await once(AbortSignal.timeout(100), 'abort'); // about 10 kB/s: ten times the least rate, for 4 s
    }
    expect((await answer).statuses).to.deep.equal([204]);
  });

  it('with more headers than 16 KiB is answered with 431', async () => {
    const head = `GET /livez HTTP/1.1\r\nHost: x\r\n`;
    expect(
      (await sendRaw(system.url, `${head}X-Big: ${'x'.repeat(64 * 1024)}\r\n\r\n`)).statuses,
    ).to.deep.equal([431]);
    const many = Array.from({ length: 3_000 }, (_, i) => `X-${i}: yyy`).join('\r\n');
    expect((await sendRaw(system.url, `${head}${many}\r\n\r\n`)).statuses).to.deep.equal([431]);
    expect(
      (await sendRaw(system.url, `GET /${'x'.repeat(64 * 1024)} HTTP/1.1\r\nHost: x\r\n\r\n`)).statuses,
    ).to.deep.equal([431]);
  });

  it('that tries to smuggle a second request gets one answer, an error, and is closed', async () => {
    const smuggled = 'GET /livez HTTP/1.1\r\nHost: x\r\n\r\n';
    const heads: Record<string, string> = {
      'both Content-Length and Transfer-Encoding':
        'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      'two lengths that differ': 'Content-Length: 0\r\nContent-Length: 40\r\n\r\n',
      'a list of lengths': 'Content-Length: 0, 40\r\n\r\n',
      'a signed length': 'Content-Length: +0\r\n\r\n',
      'a space before the colon': 'Content-Length : 40\r\n\r\n',
      'a folded header': 'X-A: b\r\n Content-Length: 40\r\n\r\n',
      'chunked that is not last': 'Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
      'chunked written otherwise': 'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
      'chunked twice': 'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n',
      'a chunk size that is none': 'Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n',
      'a chunk size that is negative': 'Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n',
      'a bare line feed': 'X-A: b\nContent-Length: 40\r\n\r\n',
      'a NUL in a header': 'X-A: b\0c\r\n\r\n',
      'a carriage return in a header': 'X-A: b\rContent-Length: 40\r\n\r\n',
    };
    for (const [shape, head] of Object.entries(heads)) {
      const answer = await sendRaw(system.url, `POST /v1/uploads HTTP/1.1\r\nHost: x\r\n${head}${smuggled}`);
      expect(
        answer.statuses.includes(200),
        `${shape}: the second request was answered\n${answer.text}`,
      ).to.equal(false);
      expect(answer.statuses[0], shape).to.be.oneOf([400, 401, 501]);
      expect(answer.statuses.length, shape).to.be.lessThan(3);
      expect(answer.closed, shape).to.equal(true);
    }
  });

  it('without a Host, with two, of another protocol or with nonsense is answered with 400', async () => {
    for (const request of [
      'GET /livez HTTP/1.1\r\n\r\n',
      'GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'GET /livez HTTP/9.9\r\nHost: x\r\n\r\n',
      '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
      'SSH-2.0-OpenSSH_9.6\r\n',
    ]) {
      const answer = await sendRaw(system.url, request);
      expect(answer.statuses, JSON.stringify(request)).to.deep.equal([400]);
    }
  });

  it('opens no tunnel and upgrades to nothing', async () => {
    const connected = await sendRaw(
      system.url,
      'CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n',
    );
    expect(connected.closed).to.equal(true);
    expect(connected.statuses).not.to.include(200);
    const upgraded = await sendRaw(
      system.url,
      'GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    );
    expect(upgraded.statuses).not.to.include(101);
    const traced = await sendRaw(system.url, 'TRACE / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n');
    expect(traced.text).not.to.contain('a=b');
  });

  it('of which there are too many are closed on arrival, and the service continues', async () => {
    const sockets = await Promise.all(Array.from({ length: 100 }, () => openSocket(system.url)));
    const closed = () =>
      Promise.resolve(sockets.filter((socket) => socket.closed || socket.destroyed).length);
    expect(await eventually(closed, (count) => count >= 40, IDLE_MS - 500)).to.be.at.least(40);
    for (const socket of sockets) socket.destroy();
  });

  it('cannot use up with one token what the others need: requests that are not answered yet are 16 of 60 connections', async () => {
    const other = await system.createToken({ name: 'other', scopes: ['read'] });
    const content = scoreLines(1);
    const url = await newUpload('crowd', content);
    // The reads wait for this table, the bodies for their bytes.
    const blocker = new pg.Client({ connectionString: system.databaseUrl });
    await blocker.connect();
    await blocker.query('BEGIN; LOCK TABLE ingest.run_revision');
    const get = `GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${system.token}\r\nConnection: close\r\n\r\n`;
    try {
      for (const request of [patchHead(url, content.length), get]) {
        const sockets = await Promise.all(Array.from({ length: 20 }, () => openSocket(system.url)));
        const texts = sockets.map(() => '');
        sockets.forEach((socket, at) => {
          socket.on('data', (bytes: Buffer) => {
            texts[at] += bytes.toString();
          });
          socket.write(request);
        });
        const refused = await eventually(
          async () => texts.filter((text) => text !== ''),
          (found) => found.length >= 4,
        );
        for (const text of refused) {
          expect(text).to.match(/^HTTP\/1\.1 429 .*\r\nRetry-After: 1\r\n/s);
          expect(text).to.contain('This token has 16 ').and.to.contain('"retryable":true');
        }
        for (const [path, token] of [
          ['/livez', null],
          ['/openapi.json', other],
        ] as const)
          await eventually(
            () => system.request('GET', path, { token }).catch(() => undefined), // a kept connection may just have been closed
            (answer) => answer?.status === 200,
          );
        for (const socket of sockets) socket.destroy();
      }
    } finally {
      await blocker.query('ROLLBACK');
      await blocker.end();
    }
    await eventually(
      () => system.request('GET', '/v1/runs').catch(() => undefined),
      (answer) => answer?.status === 200,
    );
  });

  it('of which a thousand say nothing leave room for whoever has a token, from the same address and from another', async () => {
    const roomy = await startSystem({ guard: { ...guard, maxConnections: 1_000 } });
    const idle = new Set<Socket>();
    const openIdle = async (localAddress: string) => {
      const socket = await openSocket(roomy.url, localAddress);
      idle.add(socket);
      socket.once('close', () => idle.delete(socket));
    };
    const ask = async (localAddress: string): Promise<readonly number[]> => {
      const socket = await openSocket(roomy.url, localAddress);
      const answer = collect(socket, 2_000);
      socket.write(
        `GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${roomy.token}\r\nConnection: close\r\n\r\n`,
      );
      return (await answer).statuses;
    };
    const streaming = await openSocket(roomy.url);
    streaming.write(`GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${roomy.token}\r\n\r\n`);
    await once(streaming, 'data');
    try {
      for (let round = 0; round < 10; round += 1) {
        await Promise.all(Array.from({ length: 100 }, () => openIdle('127.0.0.1')));
        expect(await ask('127.0.0.1'), `after ${(round + 1) * 100} idle sockets`).to.deep.equal([200]);
        expect(await ask('127.0.0.2')).to.deep.equal([200]);
      }
      // A quarter of 1,000, which `ask` was one of.
      await eventually(
        async () => idle.size,
        (count) => count <= 250,
      );
      expect(idle.size).to.be.greaterThan(200);
      // From everywhere: now all that there may be are idle.
      for (let address = 3; address < 13; address += 1)
        await Promise.all(Array.from({ length: 100 }, () => openIdle(`127.0.0.${address}`)));
      expect(await ask('127.0.0.2')).to.deep.equal([200]);
      expect(streaming.destroyed, 'who came with a token stays').to.equal(false);
    } finally {
      for (const socket of [...idle, streaming]) socket.destroy();
      await roomy.stop();
    }
  });
});
