import type { z } from 'zod';
import type { ErrorCode } from '../errors.ts';
import { contractRequest } from '../runs/contract.ts';
import * as answers from './answers.ts';
import { publishRequest } from './current-routes.ts';
import { manifestRequest } from './requests.ts';
import { actionRequest } from './run-actions-routes.ts';
import { signInRequest } from './session-routes.ts';
import { runsQuery } from './status-routes.ts';

export interface Operation {
  readonly method: 'get' | 'put' | 'post' | 'delete' | 'head' | 'patch' | 'options';
  /** As the routes have it: `:name` is a parameter. */
  readonly path: string;
  readonly summary: string;
  /** null: open to everybody. */
  readonly scope: 'push' | 'read' | 'operate' | 'any' | null;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** A body that works, on a model `demo` with a run `2026-11`. */
  readonly example?: unknown;
  readonly answers: Readonly<Record<number, Answer>>;
  readonly problems: readonly ErrorCode[];
  /** Headers that the request must or may have. */
  readonly headers?: Readonly<Record<string, { readonly required: boolean; readonly says: string }>>;
}

export interface Answer {
  readonly says: string;
  readonly schema?: z.ZodType;
  /** When it is not JSON. */
  readonly mediaType?: string;
}

const RUN = '/v1/models/:model/runs/:run';
const UPLOAD = '/v1/uploads/:id';
const theRun = { says: 'the run', schema: answers.run };
const theModel = { says: 'the model; its ETag is what readers see now', schema: answers.model };
const notModified = { says: 'what the ETag in If-None-Match stands for has not changed' };
const TUS = { 'Tus-Resumable': { required: true, says: '1.0.0' } };

export const OPERATIONS: readonly Operation[] = [
  {
    method: 'get',
    path: '/livez',
    summary: 'The process answers',
    scope: null,
    answers: { 200: { says: 'it does', schema: answers.probe } },
    problems: [],
  },
  {
    method: 'get',
    path: '/readyz',
    summary: 'Database and disk can be reached',
    scope: null,
    answers: { 200: { says: 'they can', schema: answers.probe } },
    problems: ['database_unavailable', 'storage_fault', 'shutting_down'],
  },
  {
    method: 'get',
    path: '/session',
    summary: "Who the status page's cookie belongs to",
    scope: null,
    answers: { 200: { says: 'the session', schema: answers.session } },
    problems: [],
  },
  {
    method: 'post',
    path: '/session',
    summary: 'Signs the status page in: a token for a cookie',
    scope: null,
    body: signInRequest,
    answers: { 200: { says: 'the session', schema: answers.session } },
    problems: ['unauthenticated', 'forbidden'],
  },
  {
    method: 'delete',
    path: '/session',
    summary: 'Signs the status page out',
    scope: null,
    answers: { 200: { says: 'no session', schema: answers.session } },
    problems: ['forbidden'],
  },
  {
    method: 'get',
    path: '/v1/status',
    summary: 'Queue, transfers, loaders, disk, and what needs a human',
    scope: 'read',
    answers: { 200: { says: 'the overview', schema: answers.status }, 304: notModified },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/runs',
    summary: 'Runs by their newest revision, the one that was declared last first',
    scope: 'read',
    query: runsQuery,
    answers: { 200: { says: 'a page of runs', schema: answers.runList }, 304: notModified },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: '/v1/events',
    summary:
      'Server-sent events: `run` with a RunSummary for each change, `reset` when all must be read anew',
    scope: 'read',
    headers: { 'Last-Event-ID': { required: false, says: 'go on after this event' } },
    answers: { 200: { says: 'a stream', mediaType: 'text/event-stream' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/models',
    summary: 'Every model that the token covers',
    scope: 'read',
    answers: { 200: { says: 'the models', schema: answers.modelList } },
    problems: [],
  },
  {
    method: 'get',
    path: '/v1/models/:model',
    summary: 'A model: its contract, and what readers see',
    scope: 'read',
    answers: { 200: theModel },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: '/v1/models/:model',
    summary: 'Sets the contract that runs of the model are held to',
    scope: 'operate',
    body: contractRequest,
    example: { minRows: 1, maxRowChangePercent: 20, maxScoreShiftPsi: 0.25, keepRevisions: 3 },
    answers: { 200: theModel },
    problems: ['not_found'],
  },
  {
    method: 'put',
    path: '/v1/models/:model/current',
    summary: 'Publishes what is held, or rolls back: a pointer moves, no data does',
    scope: 'operate',
    body: publishRequest,
    example: { run: '2026-11', reason: 'the run of November is the right one' },
    headers: { 'If-Match': { required: false, says: 'the ETag of the model; 412 when it has changed' } },
    answers: { 200: theModel },
    problems: ['not_found', 'conflict', 'precondition_failed'],
  },
  {
    method: 'put',
    path: RUN,
    summary: 'Declares what the run consists of',
    scope: 'push',
    body: manifestRequest,
    example: {
      files: [
        {
          name: 'scores.jsonl',
          bytes: 31,
          sha256: '2e69b4a56ffe69da2ba7db04571eda0d74b4ad5f4a2d5e8d14f6a40c0a1ef1c2',
          lines: 1,
        },
      ],
      as_of: '2026-11-01T00:00:00Z',
      source: { host: 'scheduler-1' },
    },
    answers: {
      200: { says: 'the newest revision has this very content', schema: answers.run },
      201: { says: 'a new revision', schema: answers.run },
    },
    problems: ['too_large', 'quota_exceeded', 'insufficient_storage'],
  },
  {
    method: 'get',
    path: RUN,
    summary: 'The run: state, files, progress, what is wrong, what may be done',
    scope: 'read',
    answers: { 200: theRun, 304: notModified },
    problems: ['not_found'],
  },
  {
    method: 'delete',
    path: RUN,
    summary: 'Withdraws what is not published',
    scope: 'operate',
    body: actionRequest,
    example: { reason: 'the classifier was trained on the wrong month' },
    answers: { 200: theRun },
    problems: ['not_found', 'conflict'],
  },
  {
    method: 'post',
    path: `${RUN}/retry`,
    summary: 'Loads a failed run again',
    scope: 'operate',
    body: actionRequest,
    example: { reason: 'the disk of the loader was full' },
    answers: { 200: theRun },
    problems: ['not_found', 'conflict'],
  },
  {
    method: 'get',
    path: `${RUN}/rejects`,
    summary: 'The lines that were refused, one RejectedLine a line',
    scope: 'read',
    answers: { 200: { says: 'NDJSON', schema: answers.rejectedLine, mediaType: 'application/x-ndjson' } },
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: `${RUN}/history`,
    summary: 'All revisions, loads, publications and acts of the run, and its throughput of late',
    scope: 'read',
    answers: { 200: { says: 'the history', schema: answers.history }, 304: notModified },
    problems: ['not_found'],
  },
  {
    method: 'options',
    path: '/v1/uploads',
    summary: 'What the tus server can do',
    scope: 'any',
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
      'Upload-Length': { required: true, says: 'bytes of the file' },
      'Upload-Metadata': { required: true, says: '`model`, `run` and `filename`, each in base64' },
    },
    answers: { 201: { says: 'its address is in `Location`' } },
    problems: [
      'forbidden',
      'precondition_failed',
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
    answers: { 204: { says: 'in its headers' } },
    problems: [],
  },
  {
    method: 'head',
    path: UPLOAD,
    summary: 'The offset: so many bytes are synced',
    scope: 'push',
    headers: TUS,
    answers: { 200: { says: 'in `Upload-Offset`' } },
    problems: ['not_found', 'upload_gone'],
  },
  {
    method: 'patch',
    path: UPLOAD,
    summary: 'Bytes from the offset on',
    scope: 'push',
    headers: { ...TUS, 'Upload-Offset': { required: true, says: 'where these bytes begin' } },
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
    answers: { 204: { says: 'it is gone' } },
    problems: ['not_found', 'conflict'],
  },
  {
    method: 'get',
    path: '/metrics',
    summary: 'For Prometheus; needs a token that covers every model',
    scope: 'read',
    answers: { 200: { says: 'metrics', mediaType: 'text/plain' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/openapi.json',
    summary: 'This document',
    scope: 'any',
    answers: { 200: { says: 'OpenAPI 3.1' } },
    problems: [],
  },
  {
    method: 'get',
    path: '/problems/:code',
    summary: 'What a problem means and what to do',
    scope: null,
    answers: { 200: { says: 'a page', mediaType: 'text/html' } },
    problems: ['not_found'],
  },
];
