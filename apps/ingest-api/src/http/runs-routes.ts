import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { IngestError } from '../errors.ts';
import type { RunLimits } from '../runs/contract.ts';
import { declareRun } from '../runs/declare-run.ts';
import { describeRun } from '../runs/describe-run.ts';
import { progressOf } from '../runs/run-progress.ts';
import type { RunWatch } from '../runs/run-watch.ts';
import { principalOf, requireAccess } from './authenticate.ts';
import { parseModelParam, parseRequest, readManifest, runKey } from './requests.ts';
import type { RoomCheck } from './room-check.ts';
import { sendJson } from './send-json.ts';
import type { UploadQuota } from './upload-quota.ts';

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
    sendJson(req, res, { ...view, progress: await progressOf(db, view, watch.throughput) });
  });

  return router;
}
