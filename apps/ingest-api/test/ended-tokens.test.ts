import { expect } from 'chai';
import { openSocket, untilClosed } from './support/raw-http.ts';
import { declare, eventually, patch, startSystem, type TestSystem } from './support/system.ts';

const MIB = 1024 * 1024;
/** What a process remembers, and how often a stream asks. */
const SEEN_WITHIN_MS = 3_000;

/** How a token ends, by the name that it was given. */
const ENDS = {
  revoked: 'UPDATE ingest.api_token SET revoked_at = now() WHERE name = $1',
  expired: 'UPDATE ingest.api_token SET expires_at = now() WHERE name = $1',
};

describe('what a token has under way when it ends', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  async function openStream(headers: Record<string, string>) {
    const answer = await system.request('GET', '/v1/events', { token: null, headers });
    expect(answer.status).to.equal(200);
    let isOver = false;
    void (async () => {
      for await (const _ of answer.body ?? []);
      isOver = true;
    })();
    return {
      isOver: () => Promise.resolve(isOver),
      ends: () =>
        eventually(
          () => Promise.resolve(isOver),
          (over) => over,
          SEEN_WITHIN_MS,
        ),
    };
  }

  for (const [how, end] of Object.entries(ENDS)) {
    it(`a stream of events ends when its token is ${how}; another token's continues`, async () => {
      const name = `stream-${how}`;
      const token = await system.createToken({ name });
      const stream = await openStream({ authorization: `Bearer ${token}` });
      const other = await openStream({ authorization: `Bearer ${system.token}` });
      await system.query(end, [name]);
      await stream.ends();
      expect(await other.isOver()).to.equal(false);
    });

    it(`a PATCH ends with 401 when its token is ${how}; what was acknowledged stays, and another token continues`, async () => {
      const name = `patch-${how}`;
      const token = await system.createToken({ name });
      const content = Buffer.alloc(80 * MIB, how);
      const { missing } = await declare(system, 'churn', how, [{ name: 'a.jsonl', content }]);
      const url = missing.files[0]?.uploadUrl ?? '';
      const offset = async () => {
        const [row] = await system.query('SELECT offset_bytes FROM ingest.upload WHERE upload_id = $1', [
          url.split('/').at(-1),
        ]);
        return Number(row?.offset_bytes);
      };
      const socket = await openSocket(system.url);
      let answer = '';
      socket.on('data', (chunk) => {
        answer += chunk.toString('latin1');
      });
      const closed = untilClosed(socket);
      socket.write(
        `PATCH ${url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n` +
          `Content-Type: application/offset+octet-stream\r\nContent-Length: ${content.length}\r\nConnection: close\r\n\r\n`,
      );
      socket.write(content.subarray(0, 44 * MIB));
      const recorded = await eventually(offset, (bytes) => bytes > 0);
      await system.query(end, [name]);
      // As a client that knows of nothing: it sends on, in pieces, until it is answered.
      let sentBytes = 44 * MIB;
      await eventually(
        async () => {
          const more = content.subarray(sentBytes, sentBytes + MIB / 4);
          sentBytes += more.length;
          if (!socket.destroyed && more.length > 0) socket.write(more);
          return answer;
        },
        (text) => text !== '',
      );
      expect(answer).to.match(/^HTTP\/1\.1 401 /);
      expect(sentBytes).to.be.below(content.length);
      expect(await offset()).to.equal(recorded);
      socket.destroy();
      await closed;
      const next = await patch(system, url, recorded, content.subarray(recorded));
      expect(next.status).to.equal(204);
      expect(await offset()).to.equal(content.length);
    });
  }

  it('a stream of the status page ends when somebody signs out', async () => {
    const page = { 'sec-fetch-site': 'same-origin' };
    const signedIn = await system.request('POST', '/session', {
      json: { token: system.token },
      token: null,
      headers: page,
    });
    const cookie = signedIn.headers.get('set-cookie')?.split(';')[0] ?? '';
    const stream = await openStream({ cookie });
    await system.request('DELETE', '/session', { token: null, headers: { ...page, cookie } });
    await stream.ends();
  });
});
