import type { Operation } from './operation.ts';

const UPLOAD = '/v1/uploads/:id';
const TUS = { 'Tus-Resumable': { required: true, says: 'the version of tus', schema: { const: '1.0.0' } } };
/** Bytes of a file, or of a part of it. */
const BYTES = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER };
const TUS_VERSION = { 'Tus-Resumable': '1.0.0' };

export const UPLOAD_OPERATIONS: readonly Operation[] = [
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
