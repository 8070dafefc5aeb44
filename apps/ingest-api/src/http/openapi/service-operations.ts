import * as answers from '../answers.ts';
import { signInRequest } from '../session-routes.ts';
import { NOT_MODIFIED, type Operation } from './operation.ts';

const SAME_ORIGIN = {
  'Sec-Fetch-Site': {
    required: false,
    says: '`same-origin`, as browsers send it; or an Origin that is this service',
  },
};

export const SERVICE_OPERATIONS: readonly Operation[] = [
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
    path: '/problems/:code',
    summary: 'What a problem means and what to do',
    scope: null,
    example: { path: { code: 'conflict' }, answers: 200 },
    answers: { 200: { says: 'a page', mediaType: 'text/html' } },
    problems: ['unknown_address'],
  },
];
