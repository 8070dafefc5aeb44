import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { RUN_STATE } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { runHistory } from '../runs/history.ts';
import { statusOverview } from '../runs/status.ts';
import { listRuns, listRunsNeedingAttention } from '../runs/summaries.ts';
import { covers } from '../runs/tokens.ts';
import type { RunWatch } from '../runs/watch.ts';
import { sendJson, sharedAnswer } from './answers.ts';
import { principalOf, requireAccess, requireScope } from './auth.ts';
import { pageLimit, parseModelParam, parseRequest, revisionNumber, runKey } from './requests.ts';
import type { RoomCheck } from './room.ts';

const MOST_ATTENTION = 50;

/** More looks than a chart has room for are thinned out. */
const SHOWN_LOOKS = 300;

export const runsQuery = z.strictObject({
  model: z.string().optional().describe('only this model'),
  state: z
    .string()
    .transform((text) => text.split(','))
    .pipe(z.array(RUN_STATE))
    .optional()
    .describe('only these states, several with commas'),
  perModel: z.coerce
    .number()
    .int()
    .min(1)
    .max(100)
    .optional()
    .describe('only the newest runs of each model, this many'),
  limit: pageLimit,
  cursor: z
    .string()
    .regex(/^r\d{1,10}$/, 'must be a nextCursor of an answer before')
    .transform((text) => Number(text.slice(1)))
    .pipe(revisionNumber)
    .optional(),
});

interface StatusRoutesOptions {
  readonly db: Kysely<Database>;
  readonly room: RoomCheck;
  readonly watch: RunWatch;
}

/** What goes on, for people and programs that watch: the overview, the list of runs, a run's history. */
export function statusRoutes({ db, room, watch }: StatusRoutesOptions): Router {
  const router = Router();
  const statusOf = sharedAnswer(async (key) => {
    const models = JSON.parse(key) as readonly string[] | null;
    const [overview, disk, needsAttention] = await Promise.all([
      statusOverview(db, models),
      room.room(),
      listRunsNeedingAttention(db, models, MOST_ATTENTION),
    ]);
    return { at: new Date(), ...overview, disk, needsAttention };
  });

  router.get('/v1/status', async (req, res) => {
    requireScope(res, 'read');
    sendJson(req, res, await statusOf(JSON.stringify(principalOf(res).models)));
  });

  router.get('/v1/runs', async (req, res) => {
    requireScope(res, 'read');
    const query = parseRequest(runsQuery, req.query, 'The query');
    const principal = principalOf(res);
    if (query.model !== undefined) {
      parseModelParam(query.model);
      if (!covers(principal, query.model)) requireAccess(res, 'read', query.model);
    }
    const page = await listRuns(db, {
      models: query.model === undefined ? principal.models : [query.model],
      limit: query.limit,
      ...(query.state === undefined ? {} : { states: query.state }),
      ...(query.perModel === undefined ? {} : { perModel: query.perModel }),
      ...(query.cursor === undefined ? {} : { before: query.cursor }),
    });
    sendJson(req, res, {
      runs: page.runs,
      nextCursor: page.nextBefore === null ? null : `r${page.nextBefore}`,
    });
  });

  router.get('/v1/models/:model/runs/:run/history', async (req, res) => {
    const model = parseModelParam(req.params.model);
    requireAccess(res, 'read', model);
    const run = parseRequest(runKey, req.params.run, 'The run key');
    const history = await runHistory(db, model, run);
    const newest = history.revisions[0];
    if (newest === undefined) {
      throw new IngestError('not_found', `Model "${model}" has no run "${run}".`);
    }
    const throughput = watch.throughput.samplesOf(model, run, newest.revision, SHOWN_LOOKS);
    sendJson(req, res, { ...history, throughput });
  });

  return router;
}
