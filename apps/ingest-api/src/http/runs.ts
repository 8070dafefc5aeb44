import { pipeline } from 'node:stream/promises';
import type { Database } from 'db-schema';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import type { ModelName } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { retryRun, withdrawRun } from '../runs/actions.ts';
import { declareRun } from '../runs/declare.ts';
import { describeRun, progressOf } from '../runs/describe.ts';
import { fileCursor, listRunFiles, rejectedLines } from '../runs/files.ts';
import type { RunLimits } from '../runs/models.ts';
import { findRevision, type RevisionKey } from '../runs/revisions.ts';
import { allows } from '../runs/tokens.ts';
import type { RunWatch } from '../runs/watch.ts';
import { sendJson } from './answers.ts';
import { principalOf, requireAccess } from './auth.ts';
import { readJson } from './json-body.ts';
import { reason } from './models.ts';
import {
  fileName,
  pageLimit,
  parseModelParam,
  parseRequest,
  readManifest,
  revisionNumber,
  revisionText,
  runKey,
} from './requests.ts';
import type { RoomCheck, UploadQuota } from './room.ts';

const fileCursorText = z
  .string()
  .regex(/^\d{1,10}\.[A-Za-z0-9_-]{1,1400}$/, 'must be a nextCursor of an answer before')
  .transform((text) => {
    const [revision = '', name = ''] = text.split('.');
    return { revision: Number(revision), after: Buffer.from(name, 'base64url').toString() };
  })
  .pipe(z.object({ revision: revisionNumber, after: fileName }));

export const filesQuery = z.strictObject({
  state: z
    .enum(['receiving', 'received', 'stalled'])
    .optional()
    .describe('only these; `stalled` ones are among those that are `receiving`'),
  revision: revisionText.optional().describe('default: the newest; a cursor has its own'),
  limit: pageLimit,
  cursor: fileCursorText.optional().describe('the `nextCursor` of the page before'),
});

interface RunsRoutesOptions {
  readonly db: Kysely<Database>;
  readonly room: RoomCheck;
  readonly quota: UploadQuota;
  readonly runLimits: RunLimits;
  readonly watch: RunWatch;
}

export function runsRoutes({ db, room, quota, runLimits, watch }: RunsRoutesOptions): Router {
  const router = Router();

  router.put('/v1/models/:model/runs/:run', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'push', model);
    const run = parseRequest(runKey, req.params.run, 'The run key');
    const manifest = await readManifest(req, res);
    for (const file of manifest.files) room.checkSize(file.name, file.bytes);
    const reserveRoom = await room.measure();
    const { isNew } = await declareRun(db, {
      model,
      run,
      files: manifest.files,
      ...(manifest.as_of === undefined ? {} : { asOf: new Date(manifest.as_of) }),
      ...(manifest.source === undefined ? {} : { source: manifest.source }),
      declaredBy: principalOf(res).name,
      limits: runLimits,
      reserve: async (trx, newBytes) => {
        await quota(trx, principalOf(res).name, manifest.files.length, newBytes);
        await reserveRoom(trx, newBytes);
      },
    });
    res.status(isNew ? 201 : 200).json(await describeRun(db, model, run));
  });

  router.get('/v1/models/:model/runs/:run', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'read', model);
    const run = parseRequest(runKey, req.params.run, 'The run key');
    const view = await describeRun(db, model, run);
    if (view === undefined) {
      throw new IngestError(
        'not_found',
        `Model "${model}" has no run "${run}"; \`uploader push\` declares one.`,
      );
    }
    const progress = await progressOf(db, view, watch.throughput);
    if (progress !== null) watch.want();
    sendJson(req, res, { ...view, progress });
  });

  router.get('/v1/models/:model/runs/:run/files', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'read', model);
    const run = parseRequest(runKey, req.params.run, 'The run key');
    const query = parseRequest(filesQuery, req.query, 'The query');
    const { revision_id, revision } = await findRevision(db, {
      model,
      run,
      revision: query.cursor?.revision ?? query.revision,
    });
    const page = await listRunFiles(db, {
      revisionId: revision_id,
      filter: query.state,
      after: query.cursor?.after,
      limit: query.limit,
    });
    sendJson(req, res, { revision, files: page.files, nextCursor: fileCursor(revision, page) });
  });

  return router;
}

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
