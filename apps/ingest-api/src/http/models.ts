import type { Database } from 'db-schema';
import { type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import { contract, isModelName } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { publishByHand } from '../runs/actions.ts';
import { findModel, listModels, type ModelView, setContract } from '../runs/models.ts';
import { modelOf, principalOf } from './auth.ts';
import { readJson } from './json-body.ts';
import type { TokenQuota } from './quota.ts';
import { CURSOR_RULE, noQuery, pageLimit, parseRequest, reason, revisionNumber, runKey } from './requests.ts';

export const modelsQuery = z.strictObject({
  limit: pageLimit,
  cursor: z
    .string()
    .refine(isModelName, CURSOR_RULE)
    .optional()
    .describe('the `nextCursor` of the page before'),
});

export const publishRequest = z.strictObject({
  run: runKey,
  revision: revisionNumber.optional(),
  force: z.boolean().optional(),
  reason,
});

/** 100 attributes with their rules, and lists of values that are allowed. */
const CONTRACT_LIMITS = { mostBytes: 128 * 1024, mostValues: 5_000 };

/** Models: their contracts, and which run readers see. */
export function modelRoutes(db: Kysely<Database>, quota: TokenQuota): Router {
  const router = Router();

  router.get('/v1/models', async (req, res) => {
    const { limit, cursor } = parseRequest(modelsQuery, req.query, 'The query');
    const page = await listModels(db, { models: principalOf(res).models, after: cursor, limit });
    res.set('Cache-Control', 'no-store').json(page);
  });

  router.get('/v1/models/:model', noQuery, async (req, res) => {
    sendModel(res, await findModel(db, modelOf(req, res, 'read')));
  });

  router.put('/v1/models/:model', noQuery, async (req, res) => {
    const model = modelOf(req, res, 'operate');
    const request = parseRequest(contract, await readJson(req, res, CONTRACT_LIMITS), 'The contract');
    const owner = principalOf(res).name;
    await setContract(db, model, request, owner, (trx) => quota.admitContract(trx, owner));
    sendModel(res, await findModel(db, model));
  });

  /** Publishes a held run, or rolls back to a run that was published before. */
  router.put('/v1/models/:model/current', noQuery, async (req, res) => {
    const model = modelOf(req, res, 'operate');
    const { force = false, ...request } = parseRequest(publishRequest, await readJson(req, res), 'The body');
    await publishByHand(db, {
      ...request,
      model,
      force,
      actor: principalOf(res).name,
      expectedPublicationId: parseIfMatch(req.get('if-match')),
    });
    sendModel(res, await findModel(db, model));
  });

  return router;
}

/**
 * The ETag is the publication, so that `PUT …/current` with `If-Match` replaces only what its caller has
 * seen.
 */
function sendModel(res: Response, model: ModelView): void {
  res
    .set('Cache-Control', 'no-store')
    .set('ETag', `"${model.current?.publicationId ?? 0}"`)
    .json(model);
}

const ETAG = /^"(\d{1,15})"$/;

function parseIfMatch(header: string | undefined): number | undefined {
  if (header === undefined || header === '*') return undefined;
  const id = ETAG.exec(header)?.[1];
  if (id === undefined) {
    throw new IngestError('invalid_request', 'If-Match must be the one ETag that GET of the model answered.');
  }
  return Number(id);
}
