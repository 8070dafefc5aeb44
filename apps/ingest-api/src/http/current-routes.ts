import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { findModel } from '../runs/models.ts';
import { publishByHand } from '../runs/publish-by-hand.ts';
import { principalOf, requireAccess } from './authenticate.ts';
import { readJson } from './json-body.ts';
import { sendModel } from './models-routes.ts';
import { parseModelParam, parseRequest, revisionNumber, runKey } from './requests.ts';

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
