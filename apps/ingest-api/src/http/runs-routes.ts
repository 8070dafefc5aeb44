import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import type { RunLimits } from '../runs/contract.ts';
import { declareRun } from '../runs/declare-run.ts';
import { describeRun } from '../runs/describe-run.ts';
import { findRevision } from '../runs/find-revision.ts';
import { fileCursor, listRunFiles } from '../runs/run-files.ts';
import { progressOf } from '../runs/run-progress.ts';
import type { RunWatch } from '../runs/run-watch.ts';
import { principalOf, requireAccess } from './authenticate.ts';
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
import type { RoomCheck } from './room-check.ts';
import { sendJson } from './send-json.ts';
import type { UploadQuota } from './upload-quota.ts';

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

export interface RunsRoutesOptions {
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
