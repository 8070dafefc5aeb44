import type { Scope } from 'db-schema';
import type { RequestOptions } from './system.ts';

/** Something to ask about, made again for every request, as some requests change or remove it. */
export interface Subject {
  readonly model: string;
  readonly run: string;
  readonly uploadId: string;
}

/** Who may use a route. A route that has no rule here fails the access matrix. */
export type AccessRule =
  /** Anybody, without a token. */
  | { readonly access: 'open' }
  /** Whoever has a valid token; what is not the token's model is left out of the answer. */
  | { readonly access: 'any model'; readonly scope?: Scope; readonly request?: RequestOptions }
  /** Whoever has the scope (or a greater one) for the model that the request is about. */
  | {
      readonly access: 'one model';
      readonly scopes: readonly Scope[];
      /** Status of an answer to somebody who may. */
      readonly answers: readonly number[];
      readonly request?: (subject: Subject) => RequestOptions;
    }
  /** Whoever may read, and is not bound to some models: it shows all of them. */
  | { readonly access: 'every model' };

const TUS = { 'tus-resumable': '1.0.0' };
const READ: readonly Scope[] = ['read', 'push', 'operate', 'admin'];
const PUSH: readonly Scope[] = ['push', 'admin'];
const OPERATE: readonly Scope[] = ['operate', 'admin'];

const base64 = (text: string) => Buffer.from(text).toString('base64');
const A_FILE = { name: 'a.jsonl', bytes: 3, sha256: '0'.repeat(64), lines: 1 };

export const ACCESS_RULES: Readonly<Record<string, AccessRule>> = {
  'GET /livez': { access: 'open' },
  'GET /readyz': { access: 'open' },

  'PUT /v1/models/:model/runs/:run': {
    access: 'one model',
    scopes: PUSH,
    answers: [200, 201],
    request: () => ({ json: { files: [A_FILE] } }),
  },
  'GET /v1/models/:model/runs/:run': { access: 'one model', scopes: READ, answers: [200] },

  'OPTIONS /v1/uploads': { access: 'any model' },
  'OPTIONS /v1/uploads/:id': { access: 'any model' }, // what this server can do, of no upload
  'POST /v1/uploads': {
    access: 'one model',
    scopes: PUSH,
    answers: [201],
    request: ({ model }) => ({
      headers: {
        ...TUS,
        'upload-length': '3',
        'upload-metadata': `model ${base64(model)},run ${base64('plain')},filename ${base64('a.jsonl')}`,
      },
    }),
  },
  'HEAD /v1/uploads/:id': {
    access: 'one model',
    scopes: PUSH,
    answers: [200],
    request: () => ({ headers: TUS }),
  },
  'PATCH /v1/uploads/:id': {
    access: 'one model',
    scopes: PUSH,
    answers: [204],
    request: () => ({
      body: '{',
      headers: { ...TUS, 'upload-offset': '0', 'content-type': 'application/offset+octet-stream' },
    }),
  },
  'DELETE /v1/uploads/:id': {
    access: 'one model',
    scopes: OPERATE, // it is another token's; of its own `withdraw` asks
    answers: [204],
    request: () => ({ headers: TUS }),
  },

  'GET /v1/models': { access: 'any model', scope: 'read' },
  'GET /v1/models/:model': { access: 'one model', scopes: READ, answers: [200] },
  'PUT /v1/models/:model': {
    access: 'one model',
    scopes: OPERATE,
    answers: [200],
    request: () => ({ json: {} }),
  },
  'GET /v1/models/:model/runs/:run/files': { access: 'one model', scopes: READ, answers: [200] },
  'GET /v1/models/:model/runs/:run/rejects': { access: 'one model', scopes: READ, answers: [200] },
  'GET /v1/models/:model/runs/:run/history': { access: 'one model', scopes: READ, answers: [200] },
  'POST /v1/models/:model/runs/:run/retry': {
    access: 'one model',
    scopes: OPERATE,
    answers: [409], // it is receiving
    request: () => ({ json: {} }),
  },
  'DELETE /v1/models/:model/runs/:run': { access: 'one model', scopes: OPERATE, answers: [200] }, // likewise
  'PUT /v1/models/:model/current': {
    access: 'one model',
    scopes: OPERATE,
    answers: [409], // it is receiving
    request: ({ run }) => ({ json: { run, reason: 'to see who may' } }),
  },

  'GET /v1/status': { access: 'any model', scope: 'read' },
  'GET /v1/runs': { access: 'any model', scope: 'read' },
  'GET /v1/events': { access: 'any model', scope: 'read' },
  'GET /metrics': { access: 'every model' },
  'GET /openapi.json': { access: 'any model' },

  'GET /problems': { access: 'open' },
  'GET /problems/:code': { access: 'open' }, // what an error means; the same for everybody

  // The status page's files, and its way to come in; what it shows it asks for with its token.
  'GET /': { access: 'open' },
  'GET /page/style.css': { access: 'open' },
  'GET /page/icon.svg': { access: 'open' },
  'GET /page/vendor/gates.js': { access: 'open' },
  'GET /page/vendor/lit-html.js': { access: 'open' },
  'GET /page/vendor/uplot.js': { access: 'open' },
  'GET /page/vendor/uplot.css': { access: 'open' },
  'GET /page/:module': { access: 'open' },
  'GET /session': { access: 'open' },
  'POST /session': { access: 'open' },
  'DELETE /session': { access: 'open' },
};
