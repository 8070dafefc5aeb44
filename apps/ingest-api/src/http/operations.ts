import type { ErrorCode } from 'wire';
import * as answers from 'wire';
import { z } from 'zod';
import { contractRequest } from '../runs/models.ts';
import { modelsQuery, publishRequest } from './models.ts';
import { PROBLEM_CODES } from './problems.ts';
import { manifestRequest, runKey } from './requests.ts';
import { actionRequest, filesQuery, rejectsQuery } from './runs.ts';
import { signInRequest } from './session.ts';
import { runsQuery } from './status.ts';

/** One route, as the OpenAPI document describes it. */
export interface Operation {
  readonly method: 'get' | 'put' | 'post' | 'delete' | 'head' | 'patch' | 'options';
  /** As the routes have it: `:name` is a parameter. */
  readonly path: string;
  readonly summary: string;
  /** null: open to everybody. */
  readonly scope: 'push' | 'read' | 'operate' | 'any' | null;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** The body, which is required where there is one, may be left out. */
  readonly bodyMayBeMissing?: boolean;
  /** The media type of a body that is no JSON. */
  readonly bytes?: string;
  /** Headers that the request must or may have. */
  readonly headers?: Readonly<Record<string, Header>>;
  readonly example: Example;
  readonly answers: Readonly<Record<number, Answer>>;
  readonly problems: readonly ErrorCode[];
}

interface Header {
  readonly required: boolean;
  readonly says: string;
  /** JSON Schema; any text when it is left out. */
  readonly schema?: Readonly<Record<string, unknown>>;
}

/**
 * A request that works, on a model `demo` whose run 2026-11 is published and whose run 2026-10 has failed, one
 * operation after the other in the order of the tables. (The test puts in a real token and a real upload id.)
 */
interface Example {
  /** Where it is not PATH_EXAMPLES. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly bytes?: string;
  /** The status of the answer. */
  readonly answers: number;
}

export const PATH_EXAMPLES: Readonly<Record<string, string>> = {
  model: 'demo',
  run: '2026-11',
  id: '0f6a2c51d7e94b038c1e5a7f92b4d860',
};

/** JSON Schema of the parameters in a path, decoded. */
export const PATH_SCHEMAS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  model: { pattern: '^[a-z][a-z0-9_]{0,47}$' },
  run: z.toJSONSchema(runKey),
  id: { pattern: '^[0-9a-f]{32}$' },
  code: { enum: PROBLEM_CODES },
};

export interface Answer {
  readonly says: string;
  readonly schema?: z.ZodType;
  /** When it is not JSON. */
  readonly mediaType?: string;
  /** Of an answer that no schema describes. */
  readonly example?: string;
}

const NOT_MODIFIED: Answer = { says: 'what the ETag in If-None-Match stands for has not changed' };

const RUN = '/v1/models/:model/runs/:run';
const theRun = { says: 'the run', schema: answers.run };

const RUN_OPERATIONS: readonly Operation[] = [
  {
    method: 'get',
    path: '/v1/runs',
    summary: 'Runs by their newest revision, the one that was declared last first',
    scope: 'read',
    query: runsQuery,
    example: { query: { state: 'failed,held', perModel: '3', limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of runs', schema: answers.runList }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: RUN,
    summary: 'Declares what the run consists of',
    scope: 'push',
    body: manifestRequest,
    example: {
      body: {
        files: [
          {
            name: 'scores.jsonl',
            bytes: 31,
            sha256: 'ec4184e49619cd41bb6f822f1edc7d58e76101fcf3b3369ee574f77dd8ac240e',
            lines: 1,
          },
        ],
        as_of: '2026-11-01T00:00:00Z',
        source: { host: 'scheduler-1' },
      },
      answers: 201,
    },
    answers: {
      200: { says: 'the newest revision has this very content', schema: answers.run },
      201: { says: 'a new revision', schema: answers.run },
    },
    problems: ['not_found', 'overloaded', 'quota_exceeded', 'insufficient_storage'],
  },
  {
    method: 'get',
    path: RUN,
    summary: 'The run: state, files, progress, what is wrong, what may be done',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: theRun, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/files`,
    summary: 'The files of a revision, by name, page by page',
    scope: 'read',
    query: filesQuery,
    example: { query: { state: 'received', limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of files', schema: answers.filePage }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/rejects`,
    summary: 'The lines that were refused (the first 1,000), one RejectedLine a line',
    scope: 'read',
    query: rejectsQuery,
    example: { path: { run: '2026-10' }, answers: 200 },
    answers: { 200: { says: 'NDJSON', schema: answers.rejectedLine, mediaType: 'application/x-ndjson' } },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/history`,
    summary: 'The newest revisions, loads, publications and acts of the run, and its recent throughput',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: { says: 'the history', schema: answers.history }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'post',
    path: `${RUN}/retry`,
    summary: 'Loads a failed run again',
    scope: 'operate',
    query: actionRequest,
    body: actionRequest,
    bodyMayBeMissing: true,
    example: { body: { reason: 'the disk of the loader was full' }, path: { run: '2026-10' }, answers: 200 },
    answers: { 200: theRun },
    problems: ['not_found', 'conflict'],
  },
  {
    method: 'delete',
    path: RUN,
    summary: 'Withdraws what is not published',
    scope: 'operate',
    query: actionRequest,
    body: actionRequest,
    bodyMayBeMissing: true,
    example: {
      body: { reason: 'the classifier was trained on the wrong month' },
      path: { run: '2026-10' },
      answers: 200,
    },
    answers: { 200: theRun },
    problems: ['not_found', 'conflict'],
  },
];
const UPLOAD = '/v1/uploads/:id';
const TUS = { 'Tus-Resumable': { required: true, says: 'the version of tus', schema: { const: '1.0.0' } } };
/** Bytes of a file, or of a part of it. */
const BYTES = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER };
const TUS_VERSION = { 'Tus-Resumable': '1.0.0' };

const UPLOAD_OPERATIONS: readonly Operation[] = [
  {
    method: 'options',
    path: '/v1/uploads',
    summary: 'What the tus server can do',
    scope: 'any',
    example: { answers: 204 },
    answers: { 204: { says: 'in its headers' } },
    problems: [],
  },
  {
    method: 'post',
    path: '/v1/uploads',
    summary: 'tus creation: a run of one file, without a manifest',
    scope: 'push',
    headers: {
      ...TUS,
      'Upload-Length': { required: true, says: 'bytes of the file', schema: BYTES },
      'Upload-Metadata': {
        required: true,
        says: '`model`, `run` and `filename`, each in base64',
        schema: {
          type: 'string',
          pattern: '^[!-+\\--~]+( [A-Za-z0-9+/=]*)?(,[!-+\\--~]+( [A-Za-z0-9+/=]*)?)*$',
        },
      },
    },
    example: {
      headers: {
        ...TUS_VERSION,
        'Upload-Length': '62',
        'Upload-Metadata': 'model ZGVtbw==,run cGxhaW4tMQ==,filename c2NvcmVzLmpzb25s',
      },
      answers: 201,
    },
    answers: { 201: { says: 'its address is in `Location`' } },
    problems: [
      'not_found',
      'precondition_failed',
      'upload_locked',
      'storage_fault',
      'too_large',
      'unsupported_media_type',
      'quota_exceeded',
      'insufficient_storage',
    ],
  },
  {
    method: 'options',
    path: UPLOAD,
    summary: 'What the tus server can do',
    scope: 'any',
    example: { answers: 204 },
    answers: { 204: { says: 'in its headers' } },
    problems: [],
  },
  {
    method: 'head',
    path: UPLOAD,
    summary: 'The offset: so many bytes are synced',
    scope: 'push',
    headers: TUS,
    example: { headers: TUS_VERSION, answers: 200 },
    answers: { 200: { says: 'in `Upload-Offset`' } },
    problems: ['not_found', 'upload_gone', 'precondition_failed', 'upload_locked', 'storage_fault'],
  },
  {
    method: 'patch',
    path: UPLOAD,
    summary: 'Bytes from the offset on',
    scope: 'push',
    bytes: 'application/offset+octet-stream',
    headers: { ...TUS, 'Upload-Offset': { required: true, says: 'where these bytes begin', schema: BYTES } },
    example: {
      headers: { ...TUS_VERSION, 'Upload-Offset': '0' },
      bytes: '{ "pk": "1", "score": "12.5" }\n',
      answers: 204,
    },
    answers: { 204: { says: 'synced up to `Upload-Offset`' } },
    problems: [
      'not_found',
      'offset_conflict',
      'upload_gone',
      'precondition_failed',
      'too_large',
      'unsupported_media_type',
      'upload_locked',
      'storage_fault',
      'insufficient_storage',
    ],
  },
  {
    method: 'delete',
    path: UPLOAD,
    summary: 'Gives up an upload that is not finished, and the runs that wait for it',
    scope: 'push',
    headers: TUS,
    example: { headers: TUS_VERSION, answers: 204 },
    answers: { 204: { says: 'it is gone' } },
    problems: ['not_found', 'conflict', 'precondition_failed', 'storage_fault'],
  },
];
const theModel = { says: 'the model; its ETag is what readers see now', schema: answers.model };

const MODEL_OPERATIONS: readonly Operation[] = [
  {
    method: 'get',
    path: '/v1/models',
    summary: 'The models that the token covers, by name',
    scope: 'read',
    query: modelsQuery,
    example: { query: { limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of models', schema: answers.modelList } },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/models/:model',
    summary: 'A model: its contract, and what readers see',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: theModel },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: '/v1/models/:model',
    summary: 'Sets the contract that runs of the model are held to',
    scope: 'operate',
    body: contractRequest,
    example: {
      body: { minRows: 1, maxRowChangePercent: 20, maxScoreShiftPsi: 0.25, keepRevisions: 3 },
      answers: 200,
    },
    answers: { 200: theModel },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: '/v1/models/:model/current',
    summary: 'Publishes what is held, or rolls back: a pointer moves, no data does',
    scope: 'operate',
    body: publishRequest,
    example: { body: { run: '2026-11', reason: 'the run of November is the right one' }, answers: 200 },
    headers: {
      'If-Match': {
        required: false,
        says: 'the ETag of the model; 412 when it has changed',
        schema: { type: 'string', pattern: '^("\\d{1,15}"|\\*)$' },
      },
    },
    answers: { 200: theModel },
    problems: ['not_found', 'conflict', 'precondition_failed'],
  },
];
const SAME_ORIGIN = {
  'Sec-Fetch-Site': {
    required: false,
    says: '`same-origin`, as browsers send it; or an Origin that is this service',
  },
};

const SERVICE_OPERATIONS: readonly Operation[] = [
  {
    method: 'get',
    path: '/livez',
    summary: 'The process answers',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'it does', schema: answers.probe } },
    problems: [],
  },
  {
    method: 'get',
    path: '/readyz',
    summary: 'Database and disk can be reached',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'they can', schema: answers.probe } },
    problems: ['database_unavailable', 'storage_fault', 'shutting_down'],
  },
  {
    method: 'get',
    path: '/session',
    summary: "Who the status page's session belongs to",
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'the session', schema: answers.session } },
    problems: ['rate_limited', 'database_unavailable'],
  },
  {
    method: 'post',
    path: '/session',
    summary: 'Signs the status page in: a token for a session, whose random id is set as a cookie',
    scope: null,
    headers: SAME_ORIGIN,
    body: signInRequest,
    example: { headers: { 'Sec-Fetch-Site': 'same-origin' }, body: { token: 'si_TOKEN' }, answers: 200 },
    answers: { 200: { says: 'the session', schema: answers.session } },
    problems: ['unauthenticated', 'forbidden', 'rate_limited', 'database_unavailable'],
  },
  {
    method: 'delete',
    path: '/session',
    summary: 'Signs the status page out: the session ends on the server',
    scope: null,
    headers: SAME_ORIGIN,
    example: { headers: { 'Sec-Fetch-Site': 'same-origin' }, answers: 200 },
    answers: { 200: { says: 'no session', schema: answers.session } },
    problems: ['forbidden', 'database_unavailable'],
  },
  {
    method: 'get',
    path: '/v1/status',
    summary: 'Queue, transfers, loaders, disk, and what needs a human',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: { says: 'the overview', schema: answers.status }, 304: NOT_MODIFIED },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/events',
    summary:
      'Server-sent events: `run` with a RunSummary for each change, `reset` when all must be read anew',
    scope: 'read',
    headers: { 'Last-Event-ID': { required: false, says: 'go on after this event' } },
    example: { headers: { 'Last-Event-ID': '6b1f0c9d2a47-18' }, answers: 200 },
    answers: {
      200: {
        says: 'a stream',
        mediaType: 'text/event-stream',
        example: 'retry: 2000\n\nid: 6b1f0c9d2a47-18\nevent: reset\ndata: {}\n\n',
      },
    },
    problems: [],
  },
  {
    method: 'get',
    path: '/metrics',
    summary: 'For Prometheus; needs a token that covers every model',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: { says: 'metrics', mediaType: 'text/plain' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/openapi.json',
    summary: 'This document',
    scope: 'any',
    example: { answers: 200 },
    answers: { 200: { says: 'OpenAPI 3.1' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/problems',
    summary: 'The pages of all errors',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'a list', mediaType: 'text/html' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/problems/:code',
    summary: 'What a problem means and what to do',
    scope: null,
    example: { path: { code: 'conflict' }, answers: 200 },
    answers: { 200: { says: 'a page', mediaType: 'text/html' } },
    problems: ['unknown_address'],
  },
];

/** Every route of the service but the page's own files. */
export const OPERATIONS: readonly Operation[] = [
  ...SERVICE_OPERATIONS,
  ...MODEL_OPERATIONS,
  ...RUN_OPERATIONS,
  ...UPLOAD_OPERATIONS,
];
