import { pipeline } from 'node:stream/promises';
import type { Database, Scope } from 'db-schema';
import { type Request, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import { type ModelName, RUN_STATE } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { retryRun, withdrawRun } from '../runs/actions.ts';
import { declareRun } from '../runs/declare.ts';
import { describeRun, progressOf } from '../runs/describe.ts';
import { fileCursor, listRunFiles, rejectedLines } from '../runs/files.ts';
import { runHistory } from '../runs/history.ts';
import type { RunLimits } from '../runs/models.ts';
import { findRevision } from '../runs/revisions.ts';
import { listRuns } from '../runs/summaries.ts';
import { allows } from '../runs/tokens.ts';
import type { RunWatch } from '../runs/watch.ts';
import { modelOf, principalOf, requireAccess, requireScope } from './auth.ts';
import { readJson, sendJson } from './json-body.ts';
import type { RoomCheck, TokenQuota } from './quota.ts';
import {
  CURSOR_RULE,
  fileName,
  inQuery,
  noQuery,
  pageLimit,
  parseModelParam,
  parseRequest,
  readManifest,
  reason,
  revisionNumber,
  revisionText,
  runKey,
} from './requests.ts';

export const runsQuery = z.strictObject({
  model: z.string().optional().describe('only this model'),
  state: z
    .string()
    .transform((text) => text.split(','))
    .pipe(z.array(RUN_STATE))
    .optional()
    .describe('only these states, separated by commas'),
  perModel: inQuery(z.int().min(1).max(100))
    .optional()
    .describe('only the newest runs of each model, this many'),
  profile: z
    .enum(['true', 'false'])
    .transform((text) => text === 'true')
    .optional()
    .describe('the distribution of the scores of each run, too'),
  limit: pageLimit,
  cursor: z
    .string()
    .regex(/^r\d{1,10}$/, CURSOR_RULE)
    .transform((text) => Number(text.slice(1)))
    .pipe(revisionNumber)
    .optional()
    .describe('the `nextCursor` of the page before'),
});

const fileCursorText = z
  .string()
  .regex(/^\d{1,10}\.[A-Za-z0-9_-]{1,1400}$/, CURSOR_RULE)
  .transform((text) => {
    const [revision = '', name = ''] = text.split('.');
    return { revision: Number(revision), after: Buffer.from(name, 'base64url').toString() };
  })
  .pipe(z.object({ revision: revisionNumber, after: fileName }));

export const filesQuery = z.strictObject({
  state: z
    .enum(['receiving', 'received', 'stalled'])
    .optional()
    .describe('only files in this state; `stalled` files are also `receiving`'),
  revision: revisionText.optional().describe('default: the newest; a cursor has its own'),
  limit: pageLimit,
  cursor: fileCursorText.optional().describe('the `nextCursor` of the page before'),
});

export const rejectsQuery = z.strictObject({ revision: revisionText.optional() });

/** In the body or in the query: not every client can send a body with DELETE. */
export const actionRequest = z.strictObject({
  reason: reason.optional(),
  revision: revisionText.optional(),
});

/** The most samples of a chart; more are thinned out. */
const MOST_SAMPLES = 300;

interface RunRoutesOptions {
  readonly db: Kysely<Database>;
  readonly room: RoomCheck;
  readonly quota: TokenQuota;
  readonly runLimits: RunLimits;
  readonly watch: RunWatch;
}

/** Runs, in the order of a run's life: declared, watched, retried or withdrawn. */
export function runRoutes({ db, room, quota, runLimits, watch }: RunRoutesOptions): Router {
  const router = Router();

  router.put('/v1/models/:model/runs/:run', noQuery, async (req, res) => {
    const { model, run } = runOf(req, res, 'push');
    const manifest = await readManifest(req, res);
    for (const file of manifest.files) room.checkSize(file.name, file.bytes);
    const reserveRoom = await room.measure();
    const owner = principalOf(res).name;
    const { isNew } = await declareRun(db, {
      model,
      run,
      files: manifest.files,
      ...(manifest.as_of === undefined ? {} : { asOf: new Date(manifest.as_of) }),
      ...(manifest.source === undefined ? {} : { source: manifest.source }),
      declaredBy: owner,
      limits: runLimits,
      admit: (trx) => quota.admitRun(trx, owner, manifest.files.length),
      reserve: async (trx, newBytes) => {
        await quota.reserve(trx, owner, manifest.files.length, newBytes);
        await reserveRoom(trx, newBytes);
      },
    });
    res.status(isNew ? 201 : 200).json(await describeRun(db, model, run));
  });

  router.get('/v1/runs', async (req, res) => {
    requireScope(res, 'read');
    const { model, state, perModel, profile, cursor, limit } = parseRequest(
      runsQuery,
      req.query,
      'The query',
    );
    if (model !== undefined) requireAccess(res, 'read', parseModelParam(model));
    const page = await listRuns(db, {
      models: model === undefined ? principalOf(res).models : [model],
      limit,
      ...(state === undefined ? {} : { states: state }),
      ...(perModel === undefined ? {} : { perModel }),
      ...(profile === undefined ? {} : { profile }),
      ...(cursor === undefined ? {} : { before: cursor }),
    });
    sendJson(req, res, {
      runs: page.runs,
      nextCursor: page.nextBefore === null ? null : `r${page.nextBefore}`,
    });
  });

  router.get('/v1/models/:model/runs/:run', noQuery, async (req, res) => {
    const { model, run } = runOf(req, res, 'read');
    const view = await describeRun(db, model, run);
    if (view === undefined) throw noSuchRun(model, run);
    const progress = await progressOf(db, view, watch.throughput);
    if (progress !== null) watch.want();
    sendJson(req, res, { ...view, progress });
  });

  router.get('/v1/models/:model/runs/:run/files', async (req, res) => {
    const key = runOf(req, res, 'read');
    const query = parseRequest(filesQuery, req.query, 'The query');
    const { revision_id, revision } = await findRevision(db, {
      ...key,
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

  /** The rejected lines as NDJSON, page by page from the database to the socket. */
  router.get('/v1/models/:model/runs/:run/rejects', async (req, res) => {
    const key = runOf(req, res, 'read');
    const { revision } = parseRequest(rejectsQuery, req.query, 'The query');
    const pages = await rejectedLines(db, { ...key, revision });
    res.set('Cache-Control', 'no-store').type('application/x-ndjson');
    await pipeline(async function* () {
      for await (const page of pages) yield page.map((line) => `${JSON.stringify(line)}\n`).join('');
    }, res).catch((error: unknown) => {
      if (!res.destroyed) throw error; // when the reader hangs up, nobody receives an error
    });
  });

  router.get('/v1/models/:model/runs/:run/history', noQuery, async (req, res) => {
    const { model, run } = runOf(req, res, 'read');
    const history = await runHistory(db, model, run);
    const newest = history.revisions[0];
    if (newest === undefined) throw noSuchRun(model, run);
    const throughput = watch.throughput.samplesOf(model, run, newest.revision, MOST_SAMPLES);
    sendJson(req, res, { ...history, throughput });
  });

  router.post('/v1/models/:model/runs/:run/retry', async (req, res) => {
    const key = runOf(req, res, 'operate');
    const action = await parseAction(req, res);
    await retryRun(db, { ...key, ...action, actor: principalOf(res).name });
    res.json(await describeRun(db, key.model, key.run, action.revision));
  });

  router.delete('/v1/models/:model/runs/:run', async (req, res) => {
    const principal = principalOf(res);
    // A token with `push` alone may withdraw its own runs; `withdrawRun` decides which they are.
    const mayEndOwn = !allows(principal, 'operate') && allows(principal, 'push');
    const key = runOf(req, res, mayEndOwn ? 'push' : 'operate');
    const action = await parseAction(req, res);
    await withdrawRun(db, { ...key, ...action, principal });
    res.json(await describeRun(db, key.model, key.run, action.revision));
  });

  return router;
}

/**
 * The run that the address names.
 *
 * @throws a 404 for a model that the token does not cover, a 403 when the token lacks the scope.
 */
function runOf(
  req: Request,
  res: Response,
  scope: Scope,
): { readonly model: ModelName; readonly run: string } {
  const model = modelOf(req, res, scope);
  return { model, run: parseRequest(runKey, req.params.run, 'The run key') };
}

async function parseAction(req: Request, res: Response) {
  const body = (await readJson(req, res)) ?? {};
  const isObject = typeof body === 'object' && !Array.isArray(body);
  const { reason, revision } = parseRequest(
    actionRequest,
    isObject ? { ...req.query, ...body } : body,
    'The request',
  );
  return { reason, revision };
}

function noSuchRun(model: ModelName, run: string): IngestError {
  return new IngestError(
    'not_found',
    `Model "${model}" has no run "${run}"; \`uploader push\` declares one.`,
  );
}
