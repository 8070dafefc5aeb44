import { expect } from 'chai';
import { OPERATIONS } from '../src/http/operations.ts';
import { PAGE_ADDRESSES } from '../src/http/page.ts';
import { collect, openSocket, type RawAnswer, sendRaw, startPathProxy } from './support/raw-http.ts';
import {
  createdPath,
  declare,
  eventually,
  getRun,
  manifestOf,
  patch,
  type RequestOptions,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

const TUS = { 'tus-resumable': '1.0.0' };
const BYTES = 'application/offset+octet-stream';
const EXPIRE_MS = 5 * 60 * 60 * 1000;
const MAX_UPLOAD_BYTES = 1024 ** 3;

const base64 = (text: string) => Buffer.from(text).toString('base64');
const metadata = (run: string) => `model ${base64('churn')},run ${base64(run)},filename ${base64('a.jsonl')}`;

describe('the protocol', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem({ expireUploadsMs: EXPIRE_MS, maxUploadBytes: MAX_UPLOAD_BYTES });
  });
  after(() => system.stop());

  async function newUpload(run: string, content: string): Promise<string> {
    const declared = await declare(system, 'churn', run, [{ name: 'a.jsonl', content }]);
    return declared.missing.files[0]?.uploadUrl ?? '';
  }
  const post = (run: string, options: RequestOptions & { headers: Record<string, string> }) =>
    system.request('POST', '/v1/uploads', {
      ...options,
      headers: { ...TUS, 'upload-metadata': metadata(run), ...options.headers },
    });
  const hasRun = async (run: string) => (await system.request('GET', runPath('churn', run))).status === 200;
  const requestText = (line: string, headers: readonly string[]) =>
    [`${line} HTTP/1.1`, 'Host: x', `Authorization: Bearer ${system.token}`, ...headers, '', ''].join('\r\n');

  function expectProblem({ text, statuses }: RawAnswer, status: number, code: string): void {
    expect(statuses, text).to.deep.equal([status]);
    expect(text)
      .to.match(/content-type: application\/problem\+json/i)
      .and.to.match(/x-request-id: \S/i);
    expect(JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)), text).to.include({ status, code });
  }

  it('says which methods an address has, for every address and method: 405 with Allow, without a token too', async () => {
    const known = [...OPERATIONS, ...PAGE_ADDRESSES.map((path) => ({ method: 'get', path }))];
    const byPath = Map.groupBy(known, ({ path }) => path);
    let asked = 0;
    for (const [path, operations] of byPath) {
      const methods = operations.map(({ method }) => method.toUpperCase());
      const allowed = [...new Set(methods.includes('GET') ? [...methods, 'HEAD'] : methods)].sort();
      const address = path.replace(/:(\w+)/g, 'x');
      for (const method of [
        'GET',
        'HEAD',
        'POST',
        'PUT',
        'PATCH',
        'DELETE',
        'OPTIONS',
        'TRACE',
        'PROPFIND',
      ]) {
        if (allowed.includes(method)) continue;
        const { text, statuses } = await sendRaw(
          system.url,
          `${method} ${address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
        );
        expect(statuses, `${method} ${path}`).to.deep.equal([405]);
        expect(/^allow: (.*)$/im.exec(text)?.[1], `${method} ${path}`).to.equal(allowed.join(', '));
        asked += 1;
      }
    }
    expect(asked).to.be.greaterThan(100);
  });

  it('answers with a problem what never becomes a request, and would be answered by Node', async () => {
    const head = 'GET /livez HTTP/1.1\r\nHost: x\r\n';
    const cases: [string, number, string][] = [
      ['GET /livez HTTP/1.1\r\n\r\n', 400, 'invalid_request'],
      [`${head}Host: y\r\n\r\n`, 400, 'invalid_request'],
      [`${head}X: a\0b\r\n\r\n`, 400, 'invalid_request'],
      ['nonsense\r\n\r\n', 400, 'invalid_request'],
      [`${head}X: ${'x'.repeat(20_000)}\r\n\r\n`, 431, 'headers_too_large'],
      ['FROBNICATE /livez HTTP/1.1\r\nHost: x\r\n\r\n', 501, 'not_implemented'],
      ['POST /session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n', 501, 'not_implemented'],
      [
        'POST /session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
        501,
        'not_implemented',
      ],
      ['CONNECT x:22 HTTP/1.1\r\nHost: x\r\n\r\n', 405, 'method_not_allowed'],
      ['POST /session HTTP/1.1\r\nHost: x\r\nExpect: a-pony\r\n\r\n', 417, 'expectation_failed'],
    ];
    for (const [request, status, code] of cases) {
      const answer = await sendRaw(system.url, request);
      expect(answer.closed, request.slice(0, 60)).to.equal(true);
      expectProblem(answer, status, code);
    }
  });

  it('answers Expect: 100-continue by the final status when the headers decide it, else lets the body come', async () => {
    const url = await newUpload('expects', scoreLines(3));
    const expecting = (line: string, headers: readonly string[]) =>
      requestText(line, ['Expect: 100-continue', 'Content-Length: 9', ...headers]);
    const put = `PUT ${runPath('churn', 'expects')}`;
    const refused: [string, number, string][] = [
      [expecting(put, ['Content-Type: text/plain']), 415, 'unsupported_media_type'],
      [expecting(put, ['Content-Type: application/json']).replace('th: 9', 'th: 99999999'), 413, 'too_large'],
      [expecting(put, []).replace(/Bearer \S+/, 'Bearer si_wrong'), 401, 'unauthenticated'],
      [
        expecting(`PATCH ${url}`, ['Tus-Resumable: 1.0.0', 'Upload-Offset: 5', `Content-Type: ${BYTES}`]),
        409,
        'offset_conflict',
      ],
      [
        expecting(`PATCH ${url}`, ['Tus-Resumable: 0.2.2', `Content-Type: ${BYTES}`]),
        412,
        'precondition_failed',
      ],
    ];
    for (const [request, status, code] of refused) {
      const answer = await sendRaw(system.url, request);
      expectProblem(answer, status, code);
      expect(answer.closed, 'what comes next could be the body').to.equal(true);
    }
    for (const [request, body, status] of [
      [expecting(put, ['Content-Type: application/json', 'Connection: close']), '{"files":', 400],
      [
        expecting(`PATCH ${url}`, ['Tus-Resumable: 1.0.0', 'Upload-Offset: 0', `Content-Type: ${BYTES}`]),
        'x'.repeat(9),
        204,
      ],
    ] as const) {
      const socket = await openSocket(system.url);
      const answer = collect(socket, 1_000);
      socket.once('data', () => socket.write(body));
      socket.write(request);
      expect((await answer).statuses).to.deep.equal([100, status]);
    }
  });

  it('takes JSON as JSON only, by its media type in any case', async () => {
    const body = JSON.stringify(manifestOf([{ name: 'a.jsonl', content: scoreLines(3) }]));
    const bodies = OPERATIONS.filter((operation) => operation.body !== undefined);
    expect(bodies).to.have.length.above(4);
    const operator = await system.createToken({ name: 'operator', scopes: ['push', 'read', 'operate'] });
    for (const { method, path } of bodies) {
      const address = path.replace(':model', 'churn').replace(':run', 'types');
      for (const type of ['text/plain', 'application/jsonx', 'application/json; charset=latin1', '']) {
        const answer = await system.request(method.toUpperCase(), address, {
          token: operator,
          body,
          headers: { 'content-type': type, 'sec-fetch-site': 'same-origin' },
        });
        expect(answer.status, `${method} ${path} ${type}`).to.equal(415);
      }
    }
    for (const type of ['application/json', 'Application/JSON', 'application/json;charset=UTF-8'])
      expect(
        (await system.request('PUT', runPath('churn', 'types'), { body, headers: { 'content-type': type } }))
          .ok,
        type,
      ).to.equal(true);
  });

  describe('of uploads (tus 1.0)', () => {
    it('is 412 with Tus-Version for another version, on every method, and nothing is done', async () => {
      const url = await newUpload('versions', scoreLines(5));
      for (const version of ['0.2.2', '1.0', '2.0.0', undefined]) {
        const headers = {
          'upload-offset': '0',
          'content-type': BYTES,
          'upload-length': '3',
          'upload-metadata': metadata('versioned'),
          ...(version === undefined ? {} : { 'tus-resumable': version }),
        };
        for (const method of ['POST', 'HEAD', 'PATCH', 'DELETE']) {
          const answer = await system.request(method, method === 'POST' ? '/v1/uploads' : url, {
            headers,
            ...(method === 'PATCH' || method === 'POST' ? { body: 'abc' } : {}),
          });
          expect(answer.status, `${method} ${version}`).to.equal(412);
          expect(answer.headers.get('tus-version')).to.equal('1.0.0');
        }
      }
      expect((await getRun(system, 'churn', 'versions')).missing.files[0]?.offset).to.equal(0);
      expect(await hasRun('versioned')).to.equal(false);
    });

    it('has Tus-Resumable on every answer, refusals included', async () => {
      const url = await newUpload('resumable', scoreLines(6));
      const answers = [
        await system.request('OPTIONS', '/v1/uploads'),
        await system.request('GET', url),
        await system.request('HEAD', url, { headers: TUS, token: null }),
        await system.request('HEAD', url, { headers: TUS }),
        await system.request('HEAD', '/v1/uploads/x', { headers: TUS }),
        await patch(system, url, 1, Buffer.from('x')),
        await system.request('PATCH', url),
        await post('resumable 2', { headers: { 'upload-length': '-1' } }),
        await post('resumable 2', { headers: { 'upload-length': '3' } }),
        await system.request('DELETE', url, { headers: TUS }),
      ];
      expect(answers.map(({ status }) => status)).to.deep.equal([
        204, 405, 401, 200, 404, 409, 412, 400, 201, 204,
      ]);
      for (const answer of answers) expect(answer.headers.get('tus-resumable')).to.equal('1.0.0');
    });

    it('answers its extensions and the largest upload', async () => {
      const { headers } = await system.request('OPTIONS', '/v1/uploads');
      expect(headers.get('tus-version')).to.equal('1.0.0');
      expect(headers.get('tus-extension')?.split(',').sort()).to.deep.equal([
        'creation',
        'creation-with-upload',
        'expiration',
        'termination',
      ]);
      expect(headers.get('tus-max-size')).to.equal(String(MAX_UPLOAD_BYTES));
    });

    it('says with POST, HEAD and PATCH when an unfinished upload expires, and nothing of a finished one', async () => {
      const content = scoreLines(8);
      const made = await post('expires', { headers: { 'upload-length': String(content.length) } });
      const url = createdPath(made);
      const answers = [
        made,
        await system.request('HEAD', url, { headers: TUS }),
        await patch(system, url, 0, Buffer.from(content.slice(0, 9))),
        await system.request('HEAD', url, { headers: TUS }),
      ];
      for (const { headers } of answers) {
        const expires = headers.get('upload-expires') ?? '';
        expect(new Date(expires).toUTCString(), 'RFC 9110 §5.6.7').to.equal(expires);
        expect(Date.parse(expires) - Date.now() - EXPIRE_MS).to.be.within(-10_000, 1_000);
      }
      const finished = await patch(system, url, 9, Buffer.from(content.slice(9)));
      expect(finished.status).to.equal(204);
      expect(finished.headers.get('upload-expires')).to.equal(null);
      const head = await system.request('HEAD', url, { headers: TUS });
      expect(head.headers.get('upload-expires')).to.equal(null);
    });

    it('gives an address that is right below the path of a proxy, with and without a slash at the end', async () => {
      const proxy = await startPathProxy(system.url, '/data/ingest');
      const authorization = `Bearer ${system.token}`;
      for (const [run, address] of Object.entries({
        proxied: proxy.url,
        direct: system.url,
        '': proxy.url,
      })) {
        const uploads = `${address}/v1/uploads${run === '' ? '/' : ''}`;
        const headers = {
          ...TUS,
          authorization,
          'upload-length': '3',
          'upload-metadata': metadata(run || 'slash'),
        };
        const made = await fetch(uploads, { method: 'POST', headers });
        expect(made.status, uploads).to.equal(201);
        const upload = new URL(made.headers.get('location') ?? '', made.url);
        const head = await fetch(upload, { method: 'HEAD', headers: { ...TUS, authorization } });
        expect(head.headers.get('upload-offset'), upload.href).to.equal('0');
      }
      await proxy.stop();
    });

    it('gives Upload-Metadata back as it was sent, byte for byte', async () => {
      const sent = `filename ${base64('a.jsonl')},is_private,model ${base64('churn')},empty ,run ${base64('as sent')}`;
      const made = await system.request('POST', '/v1/uploads', {
        headers: { ...TUS, 'upload-length': '3', 'upload-metadata': sent },
      });
      expect(made.status).to.equal(201);
      const url = createdPath(made);
      const metadataOf = async () =>
        (await system.request('HEAD', url, { headers: TUS })).headers.get('upload-metadata');
      expect(await metadataOf()).to.equal(sent);
      const socket = await openSocket(system.url); // writes the upload, and then no more
      const head = [
        'Tus-Resumable: 1.0.0',
        'Upload-Offset: 0',
        `Content-Type: ${BYTES}`,
        'Content-Length: 3',
      ];
      socket.write(`${requestText(`PATCH ${url}`, head)}x`);
      const isWritten = `SELECT FROM ingest.upload WHERE upload_id = $1 AND writer IS NOT NULL`;
      await eventually(
        () => system.query(isWritten, [url.split('/').at(-1)]),
        (rows) => rows.length === 1,
      );
      expect(await metadataOf(), 'from the tus server').to.equal(sent);
      socket.destroy();
    });

    it('is 415 for bytes that do not say that they are, and takes their media type in any case', async () => {
      const url = await newUpload('media', scoreLines(9));
      for (const type of ['text/plain', 'application/json', '']) {
        const headers = { ...TUS, 'upload-offset': '0', 'content-type': type };
        expect((await system.request('PATCH', url, { body: 'abc', headers })).status, type).to.equal(415);
        const posted = await post('media 2', {
          body: 'abc',
          headers: { 'upload-length': '3', 'content-type': type },
        });
        expect(posted.status, type).to.equal(415);
      }
      expect(await hasRun('media 2')).to.equal(false);
      const headers = { ...TUS, 'upload-offset': '0', 'content-type': 'Application/Offset+Octet-Stream' };
      expect((await system.request('PATCH', url, { body: 'abc', headers })).status).to.equal(204);
      const posted = await post('media 3', {
        body: 'abc',
        headers: { 'upload-length': '9', 'content-type': headers['content-type'] },
      });
      expect(posted.headers.get('upload-offset')).to.equal('3');
      const without = await post('media 4', {
        headers: { 'upload-length': '9', 'content-type': 'text/plain' },
      });
      expect(without.status, 'no body, no matter what it says of it').to.equal(201);
    });

    it('declares nothing by a POST with more bytes than it announces', async () => {
      const answer = await post('too long', {
        body: 'abcd',
        headers: { 'upload-length': '3', 'content-type': BYTES },
      });
      expect(answer.status).to.equal(413);
      expect(await hasRun('too long')).to.equal(false);
    });

    it('is 410 for bytes of a run that was cancelled, or of a revision that was replaced', async () => {
      const body = scoreLines(10);
      const operator = await system.createToken({ name: 'canceller', scopes: ['operate'] });
      const cancelled = await newUpload('cancelled', body);
      await system.request('DELETE', runPath('churn', 'cancelled'), { token: operator });
      const replaced = await newUpload('replaced', scoreLines(11));
      const replacing = await newUpload('replaced', scoreLines(12));
      for (const url of [cancelled, replaced]) {
        const answer = await patch(system, url, 0, Buffer.from(body.slice(0, 5)));
        expect(answer.status).to.equal(410);
        expect(await answer.json()).to.include({ code: 'upload_gone', retryable: true });
        expect((await system.request('HEAD', url, { headers: TUS })).status).to.equal(410);
      }
      expect((await patch(system, replacing, 0, Buffer.from('x'))).status).to.equal(204);
      const again = await newUpload('cancelled', body);
      expect((await patch(system, again, 0, Buffer.from(body))).status, 'declared again').to.equal(204);
    });
  });
});
