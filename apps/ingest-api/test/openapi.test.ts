import { EventEmitter } from 'node:events';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { type Response as ExpressResponse, Router } from 'express';
import { ERROR_CODES, RUN_ERROR_CODES } from 'wire';
import { chargeMemory } from '../src/http/json-body.ts';
import type { Operation } from '../src/http/openapi.ts';
import { OPERATIONS } from '../src/http/operations.ts';
import { requireDocumented } from './support/documented-problems.ts';
import {
  declare,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

interface Document {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, DescribedOperation>>;
}

interface DescribedOperation {
  readonly parameters: readonly {
    readonly name: string;
    readonly in: 'path' | 'query' | 'header';
    readonly required: boolean;
    readonly example?: string;
    readonly schema?: { readonly type?: string };
  }[];
  readonly requestBody?: { readonly content: Record<string, { readonly example?: unknown }> };
  readonly responses: Record<string, unknown>;
}

/** The page's own files: they are no part of the API. */
const PAGE = /^\/(page\/.*)?$/;

describe('the OpenAPI document', () => {
  let system: TestSystem;
  let document: Document;
  const routes: { readonly path: unknown; readonly methods: Record<string, boolean> }[] = [];

  before(async () => {
    const prototype = Router.prototype as { route(path: unknown): (typeof routes)[number] };
    const original = prototype.route;
    prototype.route = function (this: unknown, path) {
      const route = original.call(this, path);
      routes.push(route);
      return route;
    };
    try {
      system = await startSystem();
    } finally {
      prototype.route = original;
    }
    document = (await (await system.request('GET', '/openapi.json')).json()) as Document;
  });

  after(() => system.stop());

  it('has every route of the service, and no other', () => {
    const served = routes
      .flatMap(({ path, methods }) =>
        [path].flat().flatMap((one) => Object.keys(methods).map((method) => `${method} ${one}`)),
      )
      .filter((route) => !route.startsWith('_all ') && !PAGE.test(route.split(' ')[1] ?? ''));
    const described = OPERATIONS.map(({ method, path }) => `${method} ${path}`);
    expect(served).to.have.length.above(20);
    expect([...new Set(served)].sort()).to.deep.equal([...described].sort());
    expect(document.openapi).to.equal('3.1.0');
    expect(Object.keys(document.paths)).to.include('/v1/models/{model}/runs/{run}/rejects');
  });

  it('has every problem, each with a page that says what to do, and a page that lists them', async () => {
    const text = JSON.stringify(document);
    const list = await (await system.request('GET', '/problems', { token: null })).text();
    for (const code of Object.keys(ERROR_CODES)) expect(text, code).to.include(`"/problems/${code}"`);
    for (const code of [...Object.keys(ERROR_CODES), ...Object.keys(RUN_ERROR_CODES)]) {
      const page = await system.request('GET', `/problems/${code}`, { token: null });
      expect(page.status, code).to.equal(200);
      expect(await page.text()).to.include('What to do');
      expect(list, code).to.include(`href="/problems/${code}"`);
    }
    const both = await (await system.request('GET', '/problems/too_large', { token: null })).text();
    expect(both).to.include(ERROR_CODES.too_large.title).and.to.include(RUN_ERROR_CODES.too_large.title);
  });

  it('has `overloaded` where a body is large or compressed; the answers of all tests are compared with it', async () => {
    const token = await system.createToken({ name: 'busy', scopes: ['push', 'operate'] });
    const uploadUrl = (await declare(system, 'demo', 'busy', [{ name: 'a.jsonl', content: 'x' }])).missing
      .files[0]?.uploadUrl;
    const others = [1, 2].map((tokenId) =>
      Object.assign(new EventEmitter(), { locals: { principal: { tokenId: -tokenId } } }),
    );
    for (const other of others) chargeMemory(other as unknown as ExpressResponse, 48 * 1024 * 1024);
    const large = { padding: 'x'.repeat(100_000) };
    const compressed = (headers: Record<string, string>) => ({
      body: new Uint8Array(gzipSync('x')),
      headers: {
        'tus-resumable': '1.0.0',
        'content-type': 'application/offset+octet-stream',
        'content-encoding': 'gzip',
        ...headers,
      },
    });
    const metadata = 'model ZGVtbw==,run cGxhaW4tMg==,filename YQ==';
    try {
      for (const [method, path, request] of [
        ['PUT', runPath('demo', 'large'), { json: large }],
        ['PUT', '/v1/models/demo', { json: large }],
        ['PATCH', uploadUrl ?? '', compressed({ 'upload-offset': '0' })],
        ['POST', '/v1/uploads', compressed({ 'upload-length': '1', 'upload-metadata': metadata })],
      ] as const) {
        const answer = await system.request(method, path, { ...request, token });
        expect(await answer.json(), path).to.include({ code: 'overloaded' });
      }
    } finally {
      for (const other of others) other.emit('close');
    }
    const foreign = Response.json(
      { code: 'upload_gone' },
      { headers: { 'content-type': 'application/problem+json' } },
    );
    Object.defineProperty(foreign, 'url', { value: new URL('/v1/models/demo', system.url).href });
    expect(await requireDocumented('PUT', foreign).catch(String)).to.contain('does not have');
  });

  it('leads from a real problem to its page', async () => {
    const answer = await system.request('GET', '/v1/models/demo/runs/none');
    const { type } = (await answer.json()) as { type: string };
    expect((await fetch(new URL(type, answer.url))).status).to.equal(200);
  });

  it('has numbers in queries that are decimal digits only', async () => {
    const token = await system.createToken({ name: 'numbers', scopes: ['operate', 'push'] });
    let tried = 0;
    for (const { method, path } of OPERATIONS) {
      const name = path.replace(/:(\w+)/g, '{$1}');
      for (const parameter of document.paths[name]?.[method]?.parameters ?? []) {
        if (parameter.in !== 'query' || parameter.schema?.type !== 'integer') continue;
        for (const text of ['', ' ', ' 5', '5 ', '0x10', '1e2', '+5', '5.0', '-1', 'true', '9'.repeat(30)]) {
          const address = `${path.replace(/:\w+/g, 'demo')}?${new URLSearchParams({ [parameter.name]: text })}`;
          const answer = await system.request(method.toUpperCase(), address, { token });
          expect(answer.status, `${method} ${address}`).to.equal(400);
          tried += 1;
        }
      }
    }
    expect(tried).to.be.above(50);
  });

  it('has examples that work, each of them, and answers that fit its schemas', async () => {
    const loader = system.startLoader();
    const token = await system.createToken({ name: 'all', scopes: ['push', 'read', 'operate'] });
    await pushRun(system, 'demo', '2026-11', [{ name: 'a.jsonl', content: scoreLines(30) }]);
    await untilFinal(system, 'demo', '2026-11', 60_000);
    await pushRun(system, 'demo', '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1"}\n' }]);
    await untilFinal(system, 'demo', '2026-10', 60_000);
    await loader.stop();

    let uploadId = '';
    for (const operation of OPERATIONS) {
      const { address, init } = requestOf(document, operation, { token, uploadId });
      if (/^\/v1\/(?!uploads)/.test(address)) {
        const odd = await fetch(
          new URL(`${address}${address.includes('?') ? '&' : '?'}odd=1`, system.url),
          init,
        );
        expect(odd.status, `${operation.method} ${address} with a parameter that it does not have`).to.equal(
          400,
        );
        await odd.text();
      }
      const answer = await fetch(new URL(address, system.url), init);
      const name = `${operation.method} ${address}`;
      const text = await textOf(answer);
      expect(answer.status, `${name}: ${text}`).to.equal(operation.example.answers);
      const described = operation.answers[answer.status];
      expect(described, name).to.not.equal(undefined);
      if (described?.mediaType !== undefined)
        expect(answer.headers.get('content-type'), name).to.include(described.mediaType);
      const isLines = described?.mediaType === 'application/x-ndjson';
      for (const json of described?.schema === undefined ? [] : isLines ? text.trim().split('\n') : [text])
        described?.schema?.parse(JSON.parse(json), { error: () => name });
      uploadId = /[0-9a-f]{32}$/.exec(answer.headers.get('location') ?? '')?.[0] ?? uploadId;
    }
    expect(uploadId).to.have.length(32);
  });
});

/** The request as the document has it; only token and upload id, which nobody can know before, are real. */
function requestOf(
  document: Document,
  { method, path }: Operation,
  real: { token: string; uploadId: string },
): { address: string; init: RequestInit } {
  const described = document.paths[path.replace(/:(\w+)/g, '{$1}')]?.[method];
  if (described === undefined) throw new Error(`${method} ${path} is not in the document.`);
  const withoutExample = described.parameters.filter(
    (parameter) => parameter.required && parameter.example === undefined,
  );
  expect(withoutExample, `${method} ${path}`).to.deep.equal([]);
  const examplesIn = (place: string) =>
    described.parameters.flatMap((parameter): [string, string][] =>
      parameter.in === place && parameter.example !== undefined ? [[parameter.name, parameter.example]] : [],
    );
  let address = path;
  for (const [name, value] of examplesIn('path'))
    address = address.replace(`:${name}`, name === 'id' ? real.uploadId : value);
  const query = new URLSearchParams(examplesIn('query'));
  const [mediaType, content] = Object.entries(described.requestBody?.content ?? {})[0] ?? [];
  const headers = new Headers(examplesIn('header'));
  headers.set('authorization', `Bearer ${real.token}`);
  if (mediaType !== undefined) headers.set('content-type', mediaType);
  const example = content?.example;
  const body =
    typeof example === 'string' ? example : JSON.stringify(example)?.replace('si_TOKEN', real.token);
  return {
    address: query.size === 0 ? address : `${address}?${query}`,
    init: { method: method.toUpperCase(), headers, ...(body === undefined ? {} : { body }) },
  };
}

/** Of a stream of events the first one, as it never ends. */
async function textOf(answer: Response): Promise<string> {
  if (answer.headers.get('content-type')?.startsWith('text/event-stream') !== true) return answer.text();
  let text = '';
  for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    if (text.includes('event: reset')) break;
  }
  expect(text).to.match(/^retry: \d+\n\nid: [0-9a-f]+-\d+\nevent: reset\ndata: \{\}\n/);
  return text;
}
