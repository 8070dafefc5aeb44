import { readdir, readFile } from 'node:fs/promises';
import { expect } from 'chai';
import { Router } from 'express';
import { ERROR_CODES } from '../src/errors.ts';
import { OPERATIONS } from '../src/http/openapi-operations.ts';
import { problemDocs } from '../src/http/write-problem-docs.ts';
import { pushRun, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

interface Document {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, { responses: Record<string, unknown> }>>;
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

  it('has every problem, each with a page that the service serves and that docs/problems has', async () => {
    const text = JSON.stringify(document);
    const docs = problemDocs();
    const folder = new URL('../../../docs/problems/', import.meta.url);
    expect((await readdir(folder)).sort()).to.deep.equal([...docs.keys()].sort());
    for (const [name, doc] of docs) {
      const kept = await readFile(new URL(name, folder), 'utf8');
      expect(kept, `${name} is old: run node apps/ingest-api/src/http/write-problem-docs.ts`).to.equal(doc);
    }
    for (const code of Object.keys(ERROR_CODES)) {
      expect(text, code).to.include(`"/problems/${code}"`);
      const page = await system.request('GET', `/problems/${code}`, { token: null });
      expect(page.status, code).to.equal(200);
      expect(await page.text()).to.include('What to do');
    }
  });

  it('leads from a real problem to its page', async () => {
    const answer = await system.request('GET', '/v1/models/demo/runs/none');
    const { type } = (await answer.json()) as { type: string };
    expect((await fetch(new URL(type, answer.url))).status).to.equal(200);
  });

  it('has examples that work, and answers that fit its schemas', async () => {
    const loader = system.startLoader();
    const token = await system.createToken({ name: 'all', scopes: ['push', 'read', 'operate'] });
    await pushRun(system, 'demo', '2026-11', [{ name: 'a.jsonl', content: scoreLines(30) }]);
    await untilFinal(system, 'demo', '2026-11', 60_000);
    await pushRun(system, 'demo', '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1"}\n' }]);
    await untilFinal(system, 'demo', '2026-10', 60_000);
    await loader.stop();

    for (const operation of OPERATIONS.filter(({ path }) => !path.startsWith('/v1/uploads'))) {
      const { method, path, example } = operation;
      if (path === '/v1/events' || path === '/session') continue; // endless; and the page's own
      // Retry and withdraw are for the run that failed, the rest for the one that is published.
      const isAct = method === 'delete' || path.endsWith('/retry');
      const address = path
        .replace(':model', 'demo')
        .replace(':run', isAct ? '2026-10' : '2026-11')
        .replace(':code', 'conflict');
      const answer = await system.request(method.toUpperCase(), address, {
        token,
        ...(example === undefined ? {} : { json: example }),
      });
      const name = `${method} ${address}`;
      const text = await answer.text();
      // The order of the table withdraws the failed run before it is loaded again.
      if (path.endsWith('/retry') && answer.status === 409) continue;
      const described = operation.answers[answer.status];
      expect(described, `${name} answered ${answer.status}: ${text}`).to.not.equal(undefined);
      const isJson = described?.mediaType === undefined && described?.schema !== undefined;
      if (isJson) described.schema?.parse(JSON.parse(text));
    }
  });
});
