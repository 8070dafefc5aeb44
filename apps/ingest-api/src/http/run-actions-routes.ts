import type { Database, ModelName } from 'db-schema';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { describeRun } from '../runs/describe-run.ts';
import type { RevisionKey } from '../runs/find-revision.ts';
import { retryRun } from '../runs/retry-run.ts';
import { allows } from '../runs/tokens.ts';
import { withdrawRun } from '../runs/withdraw.ts';
import { principalOf, requireAccess } from './authenticate.ts';
import { reason } from './current-routes.ts';
import { readJson } from './json-body.ts';
import { parseModelParam, parseRequest, revisionText, runKey } from './requests.ts';

/** Also taken from the query, as not every client can send a body with DELETE. */
export const actionRequest = z.strictObject({
  reason: reason.optional(),
  revision: revisionText.optional(),
});

/** Load a run again, or withdraw it. Both answer the run. */
export function runActionsRoutes({ db }: { readonly db: Kysely<Database> }): Router {
  const router = Router();

  const retry: RequestHandler = async (req, res) => {
    const model = modelOf(req);
    requireAccess(res, 'operate', model);
    const { key, reason } = await parseAction(req, res, model);
    await retryRun(db, { ...key, reason, actor: principalOf(res).name });
    res.json(await describeRun(db, key.model, key.run));
  };

  const withdraw: RequestHandler = async (req, res) => {
    const model = modelOf(req);
    const principal = principalOf(res);
    // A token that may only push may withdraw runs of its own: which they are, `withdrawRun` decides.
    const mayEndOwn = !allows(principal, 'operate') && allows(principal, 'push');
    requireAccess(res, mayEndOwn ? 'push' : 'operate', model);
    const { key, reason } = await parseAction(req, res, model);
    await withdrawRun(db, { ...key, reason, principal });
    res.json(await describeRun(db, key.model, key.run));
  };

  router.post('/v1/models/:model/runs/:run/retry', retry);
  router.delete('/v1/models/:model/runs/:run', withdraw);
  return router;
}

function modelOf(req: Request): ModelName {
  const { model } = req.params as { model: string };
  return parseModelParam(model);
}

async function parseAction(
  req: Request,
  res: Response,
  model: ModelName,
): Promise<{ key: RevisionKey; reason: string | undefined }> {
  const { run } = req.params as { run: string };
  const body = (await readJson(req, res)) ?? {};
  const isObject = typeof body === 'object' && !Array.isArray(body);
  const given = parseRequest(actionRequest, isObject ? { ...req.query, ...body } : body, 'The request');
  return {
    key: { model, run: parseRequest(runKey, run, 'The run key'), revision: given.revision },
    reason: given.reason,
  };
}
