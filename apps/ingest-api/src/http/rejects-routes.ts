import { pipeline } from 'node:stream/promises';
import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { rejectedLines } from '../runs/rejected-lines.ts';
import { requireAccess } from './authenticate.ts';
import { parseModelParam, parseRequest, revisionText, runKey } from './requests.ts';

export const rejectsQuery = z.strictObject({ revision: revisionText.optional() });

/** `GET …/rejects`: the lines that were refused, as NDJSON, page by page from the database to the socket. */
export function rejectsRoutes({ db }: { readonly db: Kysely<Database> }): Router {
  const router = Router();
  router.get('/v1/models/:model/runs/:run/rejects', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'read', model);
    const run = parseRequest(runKey, req.params.run, 'The run key');
    const { revision } = parseRequest(rejectsQuery, req.query, 'The query');
    const pages = await rejectedLines(db, { model, run, revision });
    res.set('Cache-Control', 'no-store').type('application/x-ndjson');
    await pipeline(async function* () {
      for await (const page of pages) yield page.map((line) => `${JSON.stringify(line)}\n`).join('');
    }, res).catch((error: unknown) => {
      // Nobody is there to be told when the reader has hung up.
      if (!res.destroyed) throw error;
    });
  });
  return router;
}
