import * as answers from '../answers.ts';
import { rejectsQuery } from '../rejects-routes.ts';
import { manifestRequest } from '../requests.ts';
import { actionRequest } from '../run-actions-routes.ts';
import { filesQuery } from '../runs-routes.ts';
import { runsQuery } from '../status-routes.ts';
import { NOT_MODIFIED, type Operation } from './operation.ts';

const RUN = '/v1/models/:model/runs/:run';
const theRun = { says: 'the run', schema: answers.run };

export const RUN_OPERATIONS: readonly Operation[] = [
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
