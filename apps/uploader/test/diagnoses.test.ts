import { once } from 'node:events';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Service, startTestSystem, type TestSystem } from '../../../e2e/support/test-system.ts';
import { type IngestServer, startIngestServer } from './support/ingest-server.ts';
import { lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';

const MIB = 2 ** 20;
const HTML = { 'Content-Type': 'text/html' };
const JSON_TYPE = { 'Content-Type': 'application/json' };

describe('an answer that is not of the ingest service', () => {
  let scratch: ReturnType<typeof makeScratch>;
  before(() => {
    scratch = makeScratch();
    scratch.write('data/m/1/a.jsonl', scoreLines(100));
  });
  after(() => scratch.remove());

  const push = (url: string, token = 'token', command = ['push', join(scratch.path, 'data')]) =>
    startUploader([...command, '--json'], { UPLOADER_URL: url, UPLOADER_TOKEN: token, HOME: scratch.path })
      .finished;

  async function behind<T>(answer: RequestListener, use: (url: string) => Promise<T>): Promise<T> {
    const server = createServer(answer).listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    } finally {
      server.close();
      server.closeAllConnections();
    }
  }

  function refuse(server: IngestServer, method: string, status: number): void {
    server.intercept = (request, response) => {
      if (request.method !== method) return false;
      request.resume();
      response.writeHead(status, HTML).end('<h1>Not here</h1>');
      return true;
    };
  }

  const servers: Array<[string, RequestListener, RegExp]> = [
    [
      'a web page',
      (_, res) => res.writeHead(200, HTML).end('<h1>Welcome</h1>'),
      /answered 200: Welcome. Check UPLOADER_URL/,
    ],
    [
      'a page for a wrong path',
      (_, res) => res.writeHead(404, HTML).end('<h1>No page</h1>'),
      /404: No page. Check UPLOADER_URL/,
    ],
    [
      'other JSON',
      (_, res) => res.writeHead(200, JSON_TYPE).end('{"ok":true}'),
      /200: this is not the ingest service, .* Check UPLOADER_URL/,
    ],
    ['a list', (_, res) => res.writeHead(200, JSON_TYPE).end('[]'), /this is not the ingest service/],
    [
      "another API's 404",
      (_, res) => res.writeHead(404, JSON_TYPE).end('{"error":"not found"}'),
      /Check UPLOADER_URL/,
    ],
    [
      "another API's 401",
      (_, res) => res.writeHead(401, JSON_TYPE).end('{"error":"login"}'),
      /not the ingest service, or a proxy/,
    ],
    [
      "a proxy's 403",
      (_, res) => res.writeHead(403, HTML).end('<h1>Blocked</h1>'),
      /403: Blocked. A proxy or firewall/,
    ],
    ["a proxy's 407", (_, res) => res.writeHead(407, HTML).end(''), /A proxy asks for credentials/],
    [
      "a proxy's 413",
      (_, res) => res.writeHead(413, HTML).end('<h1>Too large</h1>'),
      /limits the size of a request/,
    ],
    [
      'a redirect',
      (_, res) => res.writeHead(302, { Location: '/login?next=1' }).end(),
      /answered 302: redirect to http:\/\/127\.0\.0\.1:\d+\/login\. If this is the address of the service/,
    ],
    [
      "another API's problem",
      (_, res) =>
        res
          .writeHead(404, { 'Content-Type': 'application/problem+json' })
          .end('{"title":"Not Found","status":404}'),
      /Check UPLOADER_URL/,
    ],
  ];
  for (const [what, answer, sentence] of servers) {
    it(`is named and ends with 2: ${what}`, async () => {
      await behind(answer, async (url) => {
        const commands = [undefined, ['status'], ['status', 'm', '1']];
        for (const { exitCode, merged } of await Promise.all(commands.map((it) => push(url, 'token', it)))) {
          expect(exitCode, merged).to.equal(2);
          expect(merged).to.match(sentence);
        }
      });
    });
  }

  it('is a fault of the network once the service has answered, whatever it is, and then named with 75', async () => {
    const server = await startIngestServer();
    const answers: Array<[number, Record<string, string>, string]> = [
      [200, JSON_TYPE, '{"ok":true}'],
      ...[200, 302, 400, 401, 403, 404, 405, 409, 410, 501].map(
        (status): [number, Record<string, string>, string] => [status, { ...HTML, Location: '/' }, 'Page'],
      ),
    ];
    for (const run of answers.keys()) scratch.write(`push/a/${run}/a.jsonl`, scoreLines(100, run * 1000));
    const met = new Map<string, number>();
    server.intercept = (request, response) => {
      const { method, url } = request;
      if (method === 'PUT' || met.has(`${method} ${url}`)) return false;
      const [status, headers, body] = answers[met.size % answers.length] ?? [500, {}, ''];
      met.set(`${method} ${url}`, status);
      request.resume();
      response.writeHead(status, headers).end(method === 'HEAD' ? undefined : body);
      return true;
    };
    try {
      const args = ['push', join(scratch.path, 'push'), '--transfers', '16'];
      const { exitCode, merged } = await push(server.url, server.token, args);
      expect(exitCode, merged).to.equal(0);
      // Each PATCH, the HEAD after it, and the GET of each run.
      expect(met.size).to.be.at.least(2 * answers.length);

      // Until the time is over.
      server.forgetAll();
      refuse(server, 'PATCH', 410);
      const never = await push(server.url, server.token, [...args.slice(0, 2), '--max-duration', '3s']);
      expect(never.exitCode).to.equal(75);
      expect(never.merged).to.match(/PATCH .* answered 410: Not here\. The service itself did not send/);
    } finally {
      await server.stop();
    }
  });

  it('ends with 2 when it refuses PATCH each time, and the service has answered none', async () => {
    const server = await startIngestServer();
    try {
      for (const status of [403, 405]) {
        server.forgetAll();
        refuse(server, 'PATCH', status);
        const { exitCode, merged } = await push(server.url, server.token);
        expect(exitCode, merged).to.equal(2);
        expect(merged).to.include(`answered ${status}: Not here. The service itself has answered no PATCH`);
      }
    } finally {
      await server.stop();
    }
  });

  it('is named when a forward proxy gives it to CONNECT, without the password of the proxy', async () => {
    const proxy = createServer().listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    let status = 0;
    proxy.on('connect', (_request, socket) => socket.end(`HTTP/1.1 ${status} Refused\r\n\r\n`));
    const address = `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    try {
      for (const [answered, code, sentence] of [
        [407, 2, 'A proxy asks for credentials'],
        [403, 2, 'The proxy does not connect to the service'],
        [503, 75, 'Out of time'],
      ] as const) {
        status = answered;
        const args = ['push', join(scratch.path, 'data'), '--json', '--max-duration', '3s'];
        const { exitCode, merged } = await startUploader(args, {
          UPLOADER_URL: 'https://ingest.example.com',
          UPLOADER_TOKEN: 'token',
          HOME: scratch.path,
          NODE_USE_ENV_PROXY: '1',
          HTTPS_PROXY: `http://user:secret@${address}`,
        }).finished;
        expect(exitCode, merged).to.equal(code);
        expect(merged).to.include(`via http://${address}/: HTTP/1.1 ${answered} Refused`);
        expect(merged).to.include(sentence).and.not.include('secret');
      }
    } finally {
      proxy.close();
      proxy.closeAllConnections();
    }
  });

  describe('and of the real one', () => {
    let system: TestSystem;
    let service: Service;
    before(async () => {
      system = await startTestSystem();
      service = await system.startService();
      system.startLoader();
    });
    after(() => system?.stop());

    it('at a wrong path, is the address and not the token; status of a run does not take it for "not yet"', async () => {
      for (const path of ['/ingest', '/v1']) {
        const commands = [undefined, ['status'], ['status', 'm', '1']];
        const url = service.url + path;
        for (const { exitCode, merged } of await Promise.all(
          commands.map((it) => push(url, system.token, it)),
        )) {
          expect(exitCode, merged).to.equal(2);
          expect(merged).to.include('Check the path in UPLOADER_URL');
        }
      }
      expect((await push(service.url, 'not-a-token')).exitCode).to.equal(77);
      expect((await push(service.url, system.token, ['status', 'm', '1'])).exitCode).to.equal(75);
      expect((await push(`${service.url}/`, system.token)).exitCode).to.equal(0);
    });

    it('status lists up to --limit, over pages, in --state, and says when there are more', async () => {
      for (let run = 1; run <= 6; run++) scratch.write(`many/m${run}/1/a.jsonl`, scoreLines(100));
      expect((await push(service.url, system.token, ['push', join(scratch.path, 'many')])).exitCode).to.equal(
        0,
      );
      const status = async (...args: string[]) => {
        const { exitCode, stdout, stderr } = await push(service.url, system.token, ['status', ...args]);
        return { exitCode, stderr, ...JSON.parse(lastLine(stdout)) };
      };
      const some = await status('--limit', '4');
      expect(some.runs).to.have.length(4);
      expect([some.more, some.stderr]).to.deep.equal([
        true,
        'These are the newest 4 runs. To list more: --limit N.\n',
      ]);
      const all = await status();
      expect(all.runs.length).to.be.at.least(6);
      expect(all).to.not.have.property('more');
      expect((await status('--state', 'failed')).runs).to.deep.equal([]);
      expect((await status('--state', 'published', '--limit', '1000')).runs).to.have.length(all.runs.length);
      for (const wrong of [
        ['--wait'],
        ['m', '--wait'],
        ['--state', 'done'],
        ['--limit', '0'],
        ['m', '1', '--limit', '3'],
      ]) {
        expect((await status(...wrong)).exitCode, wrong.join(' ')).to.equal(2);
      }
    });
  });
});

describe('a token in a file', () => {
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

  it('may be replaced at any moment of a push, with the old one refused from then on', async () => {
    scratch.write('data/m/1/a.jsonl', scoreLines(MIB));
    scratch.write('data/m/1/b.jsonl', scoreLines(MIB, 1e6));
    const file = scratch.write('token', server.token);
    let requests = 0;
    const kinds = new Set<string>();
    server.intercept = (request) => {
      requests++;
      // The service has the new token first and the file a moment later: while the request with the old one is there.
      if (requests % 5 === 0 && request.headers.authorization === `Bearer ${server.token}`) {
        server.token = `token-${requests}`;
        writeFileSync(`${file}.new`, server.token);
        renameSync(`${file}.new`, file);
        kinds.add(request.method ?? '');
      }
      return false;
    };
    const args = ['push', join(scratch.path, 'data'), '--chunk-size', '64KiB', '--poll', '50ms'];
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN_FILE: file, HOME: scratch.path };
    const { exitCode, stderr } = await startUploader(args, env).finished;
    expect(exitCode, stderr).to.equal(0);
    expect(requests).to.be.above(30);
    expect([...kinds]).to.include('PATCH');
  });

  it('is used as it was while the file is missing or empty', async () => {
    scratch.write('data/m/1/a.jsonl', scoreLines(MIB));
    const file = scratch.write('token', server.token);
    server.intercept = (request) => {
      if (request.method === 'PATCH') writeFileSync(file, '');
      return false;
    };
    const args = ['push', join(scratch.path, 'data'), '--chunk-size', '64KiB', '--poll', '50ms'];
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN_FILE: file, HOME: scratch.path };
    expect((await startUploader(args, env).finished).exitCode).to.equal(0);
  });
});
