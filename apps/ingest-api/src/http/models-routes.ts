import { type Database, isModelName } from 'db-schema';
import { type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { contractRequest } from '../runs/contract.ts';
import { findModel, listModels, type ModelView, setContract } from '../runs/models.ts';
import { principalOf, requireAccess } from './authenticate.ts';
import { readJson } from './json-body.ts';
import { pageLimit, parseModelParam, parseRequest } from './requests.ts';

export const modelsQuery = z.strictObject({
  limit: pageLimit,
  cursor: z
    .string()
    .refine(isModelName, 'must be a nextCursor of an answer before')
    .optional()
    .describe('the `nextCursor` of the page before'),
});

/** Models, and what each one's runs are held to. */
export function modelsRoutes({ db }: { readonly db: Kysely<Database> }): Router {
  const router = Router();

  router.get('/v1/models', async (req, res) => {
    const { limit, cursor } = parseRequest(modelsQuery, req.query, 'The query');
    const found = await listModels(db, { models: principalOf(res).models, after: cursor, limit: limit + 1 });
    const models = found.slice(0, limit);
    const nextCursor = found.length > limit ? models.at(-1)?.model : null;
    res.set('Cache-Control', 'no-store').json({ models, nextCursor });
  });

  router.get('/v1/models/:model', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'read', model);
    sendModel(res, await findModel(db, model));
  });

  router.put('/v1/models/:model', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'operate', model);
    const contract = parseRequest(contractRequest, await readJson(req, res), 'The contract');
    await setContract(db, model, contract, principalOf(res).name);
    sendModel(res, await findModel(db, model));
  });

  return router;
}

/** The ETag is the publication, so that `PUT …/current` with If-Match moves only what its caller has seen. */
export function sendModel(res: Response, model: ModelView): void {
  res
    .set('Cache-Control', 'no-store')
    .set('ETag', `"${model.current?.publicationId ?? 0}"`)
    .json(model);
}
