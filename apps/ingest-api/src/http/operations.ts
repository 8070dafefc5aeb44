import * as answers from 'wire';
import { signInRequest } from './auth.ts';
import { modelsQuery, publishRequest } from './models.ts';
import type { Answer, Operation } from './openapi.ts';
import { manifestRequest } from './requests.ts';
import { actionRequest, filesQuery, rejectsQuery, runsQuery } from './runs.ts';

const NOT_MODIFIED: Answer = { says: 'unchanged since the ETag in `If-None-Match`' };
const THE_MODEL: Answer = { says: 'the model; its ETag is what readers see now', schema: answers.model };
const THE_RUN: Answer = { says: 'the run', schema: answers.run };

const RUN = '/v1/models/:model/runs/:run';
const UPLOAD = '/v1/uploads/:id';

const TUS = { 'Tus-Resumable': { required: true, says: 'the version of tus', schema: { const: '1.0.0' } } };
const TUS_VERSION = { 'Tus-Resumable': '1.0.0' };
/** A number of bytes of a file. */
const BYTES = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER };

const SAME_ORIGIN = {
  'Sec-Fetch-Site': {
    required: false,
    says: '`same-origin`, as browsers send it; or an `Origin` that is this service',
  },
};

/** Every route of the service except the files of the status page. The examples work in this order. */
export const OPERATIONS: readonly Operation[] = [
  // The service
  {
    method: 'get',
    path: '/livez',
    summary: 'Answers while the process runs',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'it runs', schema: answers.probe } },
    problems: [],
  },
  {
    method: 'get',
    path: '/readyz',
    summary: 'Answers 200 while database and disk can be reached',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'both can be reached', schema: answers.probe } },
    problems: ['database_unavailable', 'storage_fault', 'shutting_down'],
  },
  {
    method: 'get',
    path: '/session',
    summary: 'Who is signed in on the status page',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'the session; `signedIn` is false without one', schema: answers.session } },
    problems: ['rate_limited', 'database_unavailable'],
  },
  {
    method: 'post',
    path: '/session',
    summary:
      'Signs in on the status page: exchanges a token for a session, whose random id is set as a cookie',
    scope: null,
    headers: SAME_ORIGIN,
    body: signInRequest,
    example: { headers: { 'Sec-Fetch-Site': 'same-origin' }, body: { token: 'si_TOKEN' }, answers: 200 },
    answers: { 200: { says: 'the session; `signedIn` is false without one', schema: answers.session } },
    problems: ['unauthenticated', 'forbidden', 'rate_limited', 'database_unavailable'],
  },
  {
    method: 'delete',
    path: '/session',
    summary: 'Signs out on the status page: ends the session in the service',
    scope: null,
    headers: SAME_ORIGIN,
    example: { headers: { 'Sec-Fetch-Site': 'same-origin' }, answers: 200 },
    answers: { 200: { says: 'no session', schema: answers.session } },
    problems: ['forbidden', 'database_unavailable'],
  },
  {
    method: 'get',
    path: '/v1/status',
    summary: 'Queue, transfers, loaders, disk, the runs that need a person, and those that are overdue',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: { says: 'the overview', schema: answers.status } },
    problems: ['storage_fault'],
  },
  {
    method: 'get',
    path: '/v1/events',
    summary:
      'Server-sent events: `run` with a RunSummary for each change, `reset` when the client must read all runs again',
    scope: 'read',
    headers: { 'Last-Event-ID': { required: false, says: 'the last event that the client received' } },
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
    summary: 'Metrics for Prometheus; needs a token that covers every model',
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
    summary: 'A page that lists every error code',
    scope: null,
    example: { answers: 200 },
    answers: { 200: { says: 'a list', mediaType: 'text/html' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/problems/:code',
    summary: 'A page that explains an error code: what happened, and what to do',
    scope: null,
    example: { path: { code: 'conflict' }, answers: 200 },
    answers: { 200: { says: 'a page', mediaType: 'text/html' } },
    problems: ['unknown_address'],
  },

  // Models
  {
    method: 'get',
    path: '/v1/models',
    summary: 'The models that the token covers, in the order of their names',
    scope: 'read',
    query: modelsQuery,
    example: { query: { limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of models', schema: answers.modelList } },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/models/:model',
    summary: 'A model: its contract, what readers see, and the run that is expected next',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: THE_MODEL },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: '/v1/models/:model',
    summary: 'Sets the contract of the model: limits, gates and rhythm of its runs, and who answers for it',
    scope: 'operate',
    body: answers.contract,
    example: {
      body: {
        minRows: 1,
        maxRowChangePercent: 20,
        maxScoreShiftPsi: 0.25,
        expectEvery: '1 month',
        expectGrace: '3 days',
      },
      answers: 200,
    },
    answers: { 200: THE_MODEL },
    problems: ['not_found', 'conflict', 'overloaded', 'quota_exceeded'],
  },
  {
    method: 'put',
    path: '/v1/models/:model/current',
    summary: 'Publishes a held run, or rolls back to an earlier one; no rows are copied',
    scope: 'operate',
    body: publishRequest,
    example: { body: { run: '2026-11', reason: 'the run of November is the right one' }, answers: 200 },
    headers: {
      'If-Match': {
        required: false,
        says: 'the ETag of the model; 412 when the model has another one now',
        schema: { type: 'string', pattern: '^("\\d{1,15}"|\\*)$' },
      },
    },
    answers: { 200: THE_MODEL },
    problems: ['not_found', 'conflict', 'precondition_failed'],
  },

  // Runs
  {
    method: 'get',
    path: '/v1/runs',
    summary: 'Runs with their newest revision, the last declared first',
    scope: 'read',
    query: runsQuery,
    example: { query: { state: 'failed,held', perModel: '3', limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of runs', schema: answers.runList }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: RUN,
    summary: 'Declares the files of the run',
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
      200: { says: 'the newest revision has exactly these files already', schema: answers.run },
      201: { says: 'a new revision', schema: answers.run },
    },
    problems: ['not_found', 'overloaded', 'storage_fault', 'quota_exceeded', 'insufficient_storage'],
  },
  {
    method: 'get',
    path: RUN,
    summary: 'The run: state, files, progress, errors, and the actions that its state allows',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: THE_RUN, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/files`,
    summary: 'The files of a revision, in the order of their names',
    scope: 'read',
    query: filesQuery,
    example: { query: { state: 'received', limit: '10' }, answers: 200 },
    answers: { 200: { says: 'a page of files', schema: answers.filePage }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/rejects`,
    summary: 'The rejected lines (the first 1,000), one JSON object per line',
    scope: 'read',
    query: rejectsQuery,
    example: { path: { run: '2026-10' }, answers: 200 },
    answers: { 200: { says: 'NDJSON', schema: answers.rejectedLine, mediaType: 'application/x-ndjson' } },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/history`,
    summary:
      'The newest revisions, loads, publications and audit events of the run, and its recent throughput',
    scope: 'read',
    example: { answers: 200 },
    answers: { 200: { says: 'the history', schema: answers.history }, 304: NOT_MODIFIED },
    problems: ['not_found'],
  },
  {
    method: 'post',
    path: `${RUN}/retry`,
    summary: 'Loads a failed run again, or a waiting one at once',
    scope: 'operate',
    query: actionRequest,
    body: actionRequest,
    bodyMayBeMissing: true,
    example: { body: { reason: 'the disk of the loader was full' }, path: { run: '2026-10' }, answers: 200 },
    answers: { 200: THE_RUN },
    problems: ['not_found', 'conflict'],
  },
  {
    method: 'delete',
    path: RUN,
    summary: 'Withdraws a run that is not published',
    scope: 'operate',
    query: actionRequest,
    body: actionRequest,
    bodyMayBeMissing: true,
    example: {
      body: { reason: 'the classifier was trained on the wrong month' },
      path: { run: '2026-10' },
      answers: 200,
    },
    answers: { 200: THE_RUN },
    problems: ['not_found', 'conflict'],
  },

  // Uploads
  {
    method: 'options',
    path: '/v1/uploads',
    summary: 'The version and extensions of the tus server',
    scope: 'any',
    example: { answers: 204 },
    answers: { 204: { says: 'they are in the headers' } },
    problems: [],
  },
  {
    method: 'post',
    path: '/v1/uploads',
    summary: 'tus creation: declares a run of one file, without a manifest',
    scope: 'push',
    headers: {
      ...TUS,
      'Upload-Length': { required: true, says: 'the size of the file in bytes', schema: BYTES },
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
    answers: {
      201: { says: 'the address of the upload is in `Location`, relative to the address of the request' },
    },
    problems: [
      'not_found',
      'precondition_failed',
      'upload_locked',
      'overloaded',
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
    summary: 'The version and extensions of the tus server',
    scope: 'any',
    example: { answers: 204 },
    answers: { 204: { says: 'they are in the headers' } },
    problems: [],
  },
  {
    method: 'head',
    path: UPLOAD,
    summary: 'The offset: the number of bytes that are synced to the disk',
    scope: 'push',
    headers: TUS,
    example: { headers: TUS_VERSION, answers: 200 },
    answers: { 200: { says: 'it is in `Upload-Offset`' } },
    problems: ['not_found', 'upload_gone', 'precondition_failed', 'upload_locked', 'storage_fault'],
  },
  {
    method: 'patch',
    path: UPLOAD,
    summary: 'Sends bytes from the offset on',
    scope: 'push',
    bytes: 'application/offset+octet-stream',
    headers: {
      ...TUS,
      'Upload-Offset': { required: true, says: 'the position of the first byte in the file', schema: BYTES },
      'Content-Encoding': {
        required: false,
        says: '`zstd` or `gzip`: the body is decoded while it arrives, and all numbers count decoded bytes',
      },
    },
    example: {
      headers: { ...TUS_VERSION, 'Upload-Offset': '0' },
      bytes: '{ "pk": "1", "score": "12.5" }\n',
      answers: 204,
    },
    answers: { 204: { says: 'the bytes up to `Upload-Offset` are synced to the disk' } },
    problems: [
      'not_found',
      'offset_conflict',
      'upload_gone',
      'precondition_failed',
      'too_large',
      'unsupported_media_type',
      'upload_locked',
      'overloaded',
      'storage_fault',
      'insufficient_storage',
    ],
  },
  {
    method: 'delete',
    path: UPLOAD,
    summary: 'Cancels an unfinished upload, and withdraws the runs that wait for it',
    scope: 'push',
    headers: TUS,
    example: { headers: TUS_VERSION, answers: 204 },
    answers: { 204: { says: 'the upload is removed' } },
    problems: ['not_found', 'conflict', 'upload_gone', 'precondition_failed', 'storage_fault'],
  },
];
