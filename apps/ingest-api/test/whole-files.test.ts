import { readdirSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import pg from 'pg';
import { collect } from './support/raw-http.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  storedFile,
  type TestSystem,
} from './support/system.ts';

const TUS = { 'tus-resumable': '1.0.0' };
const MOST_BYTES = 128 * 1024;

const RECORDS = /SET file = /;

type Query = (this: pg.Client, ...args: unknown[]) => unknown;

describe('a small file that comes at once', () => {
  const prototype = pg.Client.prototype as unknown as { query: Query };
  const { query } = prototype;
  let system: TestSystem;
  /** What the service asks of PostgreSQL, in its order. */
  let asked: Array<{ text: string; values: string }> = [];
  /** Carried out, and then the connection is cut before its answer. */
  let lost: RegExp | undefined;
  /** What records a small file waits for it. */
  let held: ((uploadId: string) => Promise<void>) | undefined;

  before(async () => {
    system = await startSystem({ databaseConnections: 3 }); // two may be held
    prototype.query = function (...args) {
      const { connectionParameters, connection } = this as unknown as {
        connectionParameters: { application_name?: string };
        connection: { stream: { destroy(error: Error): void } };
      };
      const [statement] = args;
      const text = typeof statement === 'string' ? statement : String((statement as { text: string }).text);
      if (connectionParameters.application_name === 'ingest-api serve')
        asked.push({ text, values: JSON.stringify(args[1] ?? null) });
      if (held !== undefined && RECORDS.test(text)) {
        const [uploadId] = args[1] as [string];
        return held(uploadId).then(() => query.apply(this, args));
      }
      if (lost?.test(text) !== true) return query.apply(this, args);
      lost = undefined;
      return (query.apply(this, args) as Promise<unknown>).then(() => {
        connection.stream.destroy(new Error('The test has cut the connection.'));
        throw new Error('Connection terminated: the test has cut it.');
      });
    };
  });
  after(async () => {
    prototype.query = query;
    await system.stop();
  });

  async function declared(run: string, content: string | Buffer): Promise<string> {
    const [file] = (await declare(system, 'churn', run, [{ name: 'a.jsonl', content: String(content) }]))
      .missing.files;
    if (file === undefined) throw new Error('The answer names no file.');
    return file.uploadUrl;
  }

  const offsetOf = async (url: string) =>
    Number((await system.request('HEAD', url, { headers: TUS })).headers.get('upload-offset'));

  const filesOf = (url: string) =>
    readdirSync(system.dataDir).filter((name) => name.startsWith(path.basename(url)));

  it('costs three statements: who may write it, that it is there, whether its run is complete', async () => {
    const content = scoreLines(20);
    const url = await declared('statements', content);
    await offsetOf(url); // the token was just read
    asked = [];
    const answer = await patch(system, url, 0, Buffer.from(content));
    expect(answer.status).to.equal(204);
    expect(answer.headers.get('upload-offset')).to.equal(String(content.length));
    expect(answer.headers.get('tus-resumable')).to.equal('1.0.0');
    // What the live view of runs asks meanwhile names no upload, and changes nothing.
    const ofIt = asked
      .filter(({ text, values }) => values.includes(path.basename(url)) || /UPDATE ingest\./.test(text))
      .map(({ text }) => text);
    expect(ofIt, ofIt.join('\n')).to.have.length(3);
    const stored = storedFile(system, url);
    expect(await readFile(stored, 'utf8')).to.equal(content);
    expect((await stat(stored)).mode & 0o777).to.equal(0o600);
    expect((await getRun(system, 'churn', 'statements')).state).to.equal('queued');
    expect((await patch(system, url, 0, Buffer.from(content))).status, 'once more').to.equal(409);
  });

  it('asks less often for files that arrive together, and for the last of them in any case', async () => {
    const contents = Array.from({ length: 30 }, (_, i) => scoreLines(3, 50_000 + i * 10));
    const files = contents.map((content, i) => ({ name: `${i}.jsonl`, content }));
    const urls = new Map(
      (await declare(system, 'churn', 'together', files)).missing.files.map((it) => [it.name, it.uploadUrl]),
    );
    asked = [];
    const statuses = await Promise.all(
      files.map(async ({ name, content }) => {
        const url = urls.get(name) ?? '';
        return (await patch(system, url, 0, Buffer.from(content))).status;
      }),
    );
    expect(new Set(statuses)).to.deep.equal(new Set([204]));
    expect((await getRun(system, 'churn', 'together')).state).to.equal('queued');
    expect(asked.filter(({ text }) => RECORDS.test(text))).to.have.length(30);
    expect(asked.filter(({ text }) => /UPDATE ingest\.run_revision/.test(text)).length).to.be.lessThan(30);
  });

  it('also completes a run that was declared while the file was under way, and left the question to another file', async () => {
    const shared = { name: 'shared.jsonl', content: scoreLines(4, 60_000) };
    const other = { name: 'other.jsonl', content: scoreLines(4, 61_000) };
    const { missing } = await declare(system, 'churn', 'first of two', [shared, other]);
    const urlOf = (name: string) => missing.files.find((it) => it.name === name)?.uploadUrl ?? '';
    const holds = new Map<string, () => void>();
    held = (uploadId) => new Promise((resolve) => holds.set(uploadId, resolve));
    const send = ({ name, content }: typeof shared) => patch(system, urlOf(name), 0, Buffer.from(content));
    const release = (name: string) => holds.get(path.basename(urlOf(name)))?.();
    try {
      const answers = [send(shared), send(other)] as const;
      await eventually(
        async () => holds.size,
        (size) => size === 2,
      );
      expect((await declare(system, 'churn', 'second of two', [shared])).state).to.equal('receiving');
      release(shared.name);
      expect((await answers[0]).status).to.equal(204);
      release(other.name);
      expect((await answers[1]).status).to.equal(204);
    } finally {
      held = undefined;
      for (const file of [shared, other]) release(file.name);
    }
    for (const run of ['first of two', 'second of two'])
      expect((await getRun(system, 'churn', run)).state, run).to.equal('queued');
  });

  for (const [what, bytes] of [
    ['one byte', 1],
    ['the most that is small', MOST_BYTES],
    ['one more', MOST_BYTES + 1],
  ] as const) {
    it(`or is not quite small: ${what} is stored as it was sent`, async () => {
      const content = 'x'.repeat(bytes);
      const url = await declared(`size ${bytes}`, content);
      expect((await patch(system, url, 0, Buffer.from(content))).status).to.equal(204);
      expect(await readFile(storedFile(system, url), 'utf8')).to.equal(content);
      expect(path.basename(storedFile(system, url)).includes('.')).to.equal(bytes <= MOST_BYTES);
      expect(await offsetOf(url)).to.equal(bytes);
    });
  }

  it('stays the one whose request got a 204, of many that send another content, at once or slowly', async () => {
    for (let round = 0; round < 25; round += 1) {
      const url = await declared(`race ${round}`, `${String(round).padStart(99, '0')}\n`);
      const bodies = Array.from({ length: 6 }, (_, i) => `${String(i).repeat(99)}\n`);
      const outcomes = await Promise.all(
        bodies.map(async (body, i) => {
          await delay(((round + i) * 3) % 11);
          // The last two need the lock: their bytes come in two parts.
          const status =
            i < 4 ? (await patch(system, url, 0, Buffer.from(body))).status : await sendInParts(url, body);
          return { body, status };
        }),
      );
      const winners = outcomes.filter(({ status }) => status === 204);
      expect(winners, JSON.stringify(outcomes)).to.have.length(1);
      for (const { status } of outcomes) expect(status).to.be.oneOf([204, 409, 423]);
      expect(await readFile(storedFile(system, url), 'utf8')).to.equal(winners[0]?.body);
      expect(filesOf(url), 'no other file is left').to.have.length(1);
    }
  });

  it('is kept when the answer of PostgreSQL is lost after it has recorded it', async () => {
    const content = scoreLines(30);
    const url = await declared('lost answer', content);
    lost = RECORDS;
    expect((await patch(system, url, 0, Buffer.from(content))).status).to.equal(503);
    expect(lost).to.equal(undefined);
    expect(await offsetOf(url)).to.equal(content.length);
    expect(await readFile(storedFile(system, url), 'utf8')).to.equal(content);
    expect((await pushRun(system, 'churn', 'lost answer', [{ name: 'a.jsonl', content }])).missing.files).to
      .be.empty;
  });

  it('is not whole when its sender hangs up: what had arrived counts, wherever it was cut', async () => {
    for (const sent of [1, 100, 999]) {
      const content = scoreLines(60, sent * 1000); // of its own: the same would share its upload
      const url = await declared(`cut after ${sent}`, content);
      const socket = connect(Number(new URL(system.url).port), '127.0.0.1');
      socket.on('error', () => {});
      socket.end(headOf(url, content.length) + content.slice(0, sent));
      await eventually(
        () => offsetOf(url),
        (offset) => offset === sent,
      );
      expect((await patch(system, url, sent, Buffer.from(content.slice(sent)))).status).to.equal(204);
      expect(await readFile(storedFile(system, url), 'utf8')).to.equal(content);
    }
  });

  it('leaves nothing behind when the run was withdrawn', async () => {
    const content = scoreLines(40);
    const url = await declared('withdrawn', content);
    expect((await system.request('DELETE', url, { headers: TUS })).status).to.equal(204);
    expect((await patch(system, url, 0, Buffer.from(content))).status).to.equal(404);
    expect(filesOf(url)).to.be.empty;
  });

  const headOf = (url: string, bytes: number) =>
    `PATCH ${url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer ${system.token}\r\n` +
    `Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n` +
    `Content-Length: ${bytes}\r\n\r\n`;

  async function sendInParts(url: string, body: string): Promise<number> {
    const { hostname, port } = new URL(system.url);
    const socket: Socket = connect(Number(port), hostname);
    socket.on('error', () => {});
    const answer = collect(socket, 4_000);
    socket.write(headOf(url, body.length) + body.slice(0, 50));
    await delay(30);
    socket.write(body.slice(50));
    const { statuses } = await answer;
    socket.destroy();
    return statuses[0] ?? 0;
  }
});
