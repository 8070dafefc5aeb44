import type { Database } from 'db-schema';
import { type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import { isModelName } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { publishByHand } from '../runs/actions.ts';
import { contractRequest, findModel, listModels, type ModelView, setContract } from '../runs/models.ts';
import { principalOf, requireAccess } from './auth.ts';
import { readJson } from './json-body.ts';
import { pageLimit, parseModelParam, parseRequest, revisionNumber, runKey } from './requests.ts';

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
function sendModel(res: Response, model: ModelView): void {
  res
    .set('Cache-Control', 'no-store')
    .set('ETag', `"${model.current?.publicationId ?? 0}"`)
    .json(model);
}

const ETAG = /^"(\d{1,15})"$/;

export const reason = z
  .string()
  .trim()
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]{1,500}$/u, 'must be 1 to 500 printable characters on one line');

export const publishRequest = z.strictObject({
  run: runKey,
  revision: revisionNumber.optional(),
  force: z.boolean().optional(),
  reason,
});

/** `PUT …/current`: publishes what is held, or rolls back to what was published before. */
export function currentRoutes({ db }: { readonly db: Kysely<Database> }): Router {
  const router = Router();
  router.put('/v1/models/:model/current', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'operate', model);
    const {
      run,
      revision,
      force = false,
      reason,
    } = parseRequest(publishRequest, await readJson(req, res), 'The body');
    const expectedPublicationId = parseIfMatch(req.get('if-match'));
    const actor = principalOf(res).name;
    await publishByHand(db, { model, run, revision, force, reason, actor, expectedPublicationId });
    sendModel(res, await findModel(db, model));
  });
  return router;
}

function parseIfMatch(header: string | undefined): number | undefined {
  if (header === undefined || header === '*') return undefined;
  const id = ETAG.exec(header)?.[1];
  if (id === undefined) {
    throw new IngestError('invalid_request', 'If-Match must be the one ETag that GET of the model answered.');
  }
  return Number(id);
}
