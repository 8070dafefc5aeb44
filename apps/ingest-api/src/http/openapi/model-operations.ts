import { contractRequest } from '../../runs/contract.ts';
import * as answers from '../answers.ts';
import { publishRequest } from '../current-routes.ts';
import { modelsQuery } from '../models-routes.ts';
import type { Operation } from './operation.ts';

const theModel = { says: 'the model; its ETag is what readers see now', schema: answers.model };

export const MODEL_OPERATIONS: readonly Operation[] = [
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
