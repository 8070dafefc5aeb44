import { Server } from '@tus/server';
import { ERRORS, Metadata, TUS_RESUMABLE, type Upload } from '@tus/utils';
import type { Database } from 'db-schema';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import type { ServerRequest } from 'srvx';
import { sendNodeResponse } from 'srvx/node';
import { type ErrorCode, IngestError } from '../errors.ts';
import type { RunLimits } from '../runs/contract.ts';
import { newUploadId } from '../runs/declare-run.ts';
import { type LostBytes, withTrueOffset } from '../runs/lost-bytes.ts';
import type { Principals } from '../runs/principals.ts';
import { type QueuedRevision, queueCompleteRevisions } from '../runs/queue-complete-revisions.ts';
import { openSingleFileRun } from '../runs/single-file-run.ts';
import { allows, covers } from '../runs/tokens.ts';
import { findUpload, type StandingUpload } from '../runs/upload-records.ts';
import { withdrawUpload } from '../runs/withdraw.ts';
import type { DurableStore } from '../store/durable-store.ts';
import { isUploadId } from '../store/upload-files.ts';
import type { UploadLocks } from '../store/upload-locks.ts';
import { principalOf, requireAccess, requireStillValid } from './authenticate.ts';
import { toIngestError } from './problems.ts';
import { fileName, parseModelParam, parseRequest, runKey } from './requests.ts';
import type { RoomCheck } from './room-check.ts';
import { requestWithNodeBody, writeStraightToStore } from './tus-body.ts';
import { requireReadableMetadata } from './upload-metadata.ts';
import type { UploadQuota } from './upload-quota.ts';

const PATH = '/v1/uploads';

const LOST_AND_NOT_NEEDED =
  'The bytes of this upload are lost, and no run waits for them; declare the run again.';

export interface UploadRoutesOptions {
  readonly db: Kysely<Database>;
  readonly dataDir: string;
  readonly store: DurableStore;
  readonly locks: UploadLocks;
  readonly room: RoomCheck;
  readonly quota: UploadQuota;
  readonly runLimits: RunLimits;
  readonly principals: Principals;
  onQueued(revisions: readonly QueuedRevision[]): void;
  onLost(lost: readonly LostBytes[]): void;
}

/**
 * tus 1.0 on /v1/uploads: @tus/server speaks the protocol, and everything it would decide by itself (who,
 * where, when it is finished, what is left open) is decided here.
 */
export function uploadRoutes(options: UploadRoutesOptions): Router {
  const { db, dataDir, locks, room, quota, principals } = options;
  const tus = new Server({
    path: PATH,
    datastore: options.store,
    locker: locks,
    lockDrainTimeout: 1, // the lock has waited already: a stalled holder is ended at once
    relativeLocation: true,
    allowedOrigins: () => false, // no browser of another origin has any business here
    getFileIdFromRequest: (_req, lastPath) => (isUploadId(lastPath ?? '') ? lastPath : undefined),
    namingFunction: newUploadId,
    onUploadCreate: async (req, upload) => {
      await createSingleFileRun(responseOf(req), upload);
      return {};
    },
    onUploadFinish: async (_req, upload) => {
      options.onQueued(await queueCompleteRevisions(db, { uploadId: upload.id }));
      return {};
    },
    onResponseError: (req, error) => {
      const known = fromTusError(error);
      responseOf(req).locals.error = known;
      return { status_code: 500, body: '' }; // replaced below by the problem document
    },
  });

  writeStraightToStore(tus, options.store, {
    noteProgress: (uploadId) => locks.noteProgress(uploadId),
    assertStillAllowed: (req) => requireStillValid(principals, req as Request),
  });

  async function createSingleFileRun(res: Response, upload: Upload): Promise<void> {
    const { metadata = {} } = upload;
    const model = parseModelParam(metadata.model ?? '');
    requireAccess(res, 'push', model);
    const run = parseRequest(runKey, metadata.run, 'The metadata "run"');
    const name = parseRequest(fileName, metadata.filename, 'The metadata "filename"');
    const sizeBytes = upload.size ?? 0;
    room.checkSize(name, sizeBytes);
    const reserveRoom = await room.measure();
    await openSingleFileRun(db, {
      uploadId: upload.id,
      model,
      run,
      name,
      sizeBytes,
      metadata,
      declaredBy: principalOf(res).name,
      limits: options.runLimits,
      reserve: async (trx) => {
        await quota(trx, principalOf(res).name, 1, sizeBytes);
        await reserveRoom(trx, sizeBytes);
      },
    });
  }

  const speakTus: RequestHandler = async (req, res) => {
    const response = await tus.handleWeb(requestWithNodeBody(req, res));
    if (response.status < 400) {
      await sendNodeResponse(res, response);
      return;
    }
    readOn(req);
    throw res.locals.error ?? (await fromTusResponse(response));
  };

  const router = Router();
  router.options([PATH, `${PATH}/:id`], speakTus);
  router.post(PATH, ignoreOverride, requireReadableMetadata, speakTus);
  router.all(PATH, methodNotAllowed('OPTIONS, POST'));

  router.use(`${PATH}/:id`, ignoreOverride, async (req, res, next) => {
    const { id } = req.params as { id: string };
    const upload = isUploadId(id) ? await findUpload(db, id) : undefined;
    // One that belongs to another's model is answered as one that never was, word for word.
    if (upload === undefined || !covers(principalOf(res), upload.model))
      throw new IngestError('not_found', 'There is no such upload; declare the run again.');
    const mayEndAny = req.method === 'DELETE' && allows(principalOf(res), 'operate');
    requireAccess(res, mayEndAny ? 'operate' : 'push', upload.model);
    const found = await withTrueOffset(db, dataDir, upload, options.onLost);
    if (found === undefined) throw new IngestError('upload_gone', LOST_AND_NOT_NEEDED);
    res.locals.upload = found;
    next();
  });
  router.head(`${PATH}/:id`, answerUnlocked, speakTus);
  router.patch(`${PATH}/:id`, speakTus);
  router.delete(`${PATH}/:id`, async (req, res) => {
    await withdrawUpload(db, dataDir, req.params.id, principalOf(res));
    res.status(204).set('Tus-Resumable', '1.0.0').end();
  });
  router.all(`${PATH}/:id`, methodNotAllowed('OPTIONS, HEAD, PATCH, DELETE'));
  return router;
}

/** Express's response behind the web request that @tus/server works with. */
function responseOf(req: ServerRequest): Response {
  const res = req.runtime?.node?.res;
  if (res === undefined) throw new Error('The tus server was given a request that is not from Node.');
  return res as Response;
}

/** A client that sends on although it was refused is cut off after so long. */
const READ_ON_MS = 5_000;

/**
 * Reads the rest of a body that was refused: closed at once, the connection would be reset, and the client
 * might never read why.
 */
function readOn(req: Request): void {
  if (req.complete || req.destroyed) return;
  const timer = setTimeout(() => req.socket.destroy(), READ_ON_MS);
  timer.unref();
  req.once('close', () => clearTimeout(timer)).resume();
}

/**
 * HEAD of an upload that nobody writes: what the record says holds without its lock. One that is being written goes
 * on to @tus/server, which waits for its turn: a stalled writer then gives way, and what it had counts.
 */
const answerUnlocked: RequestHandler = (req, res, next) => {
  const { isBeingWritten, offsetBytes, sizeBytes, metadata } = res.locals.upload as StandingUpload;
  if (isBeingWritten || req.get('Tus-Resumable') !== TUS_RESUMABLE) {
    next();
    return;
  }
  res.set({
    'Tus-Resumable': TUS_RESUMABLE,
    'Cache-Control': 'no-store',
    'Upload-Offset': String(offsetBytes),
    'Upload-Length': String(sizeBytes),
  });
  if (metadata !== null) res.set('Upload-Metadata', Metadata.stringify(metadata));
  res.status(200).end();
};

/** tus 1.0 lets a client override the method by a header; a proxy that filters by method could not see it. */
const ignoreOverride: RequestHandler = (req: Request, _res, next) => {
  delete req.headers['x-http-method-override'];
  next();
};

function methodNotAllowed(allowed: string): RequestHandler {
  return (req, res) => {
    res.set('Allow', allowed);
    throw new IngestError('method_not_allowed', `${req.method} is not allowed here; use one of ${allowed}.`);
  };
}

const CODES_BY_STATUS: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_request',
  403: 'invalid_request',
  404: 'not_found',
  409: 'offset_conflict',
  410: 'upload_gone',
  412: 'precondition_failed',
  413: 'too_large',
  415: 'unsupported_media_type',
  423: 'upload_locked',
  501: 'invalid_request',
};

/** @tus/server throws plain objects of a status and a text. */
function fromTusError(error: unknown): IngestError {
  const { status_code, body } = error as { status_code?: unknown; body?: unknown };
  if (error === ERRORS.INVALID_OFFSET) {
    return new IngestError(
      'offset_conflict',
      'The upload stands at another offset; ask for it by HEAD and go on from there.',
    );
  }
  const code = typeof status_code === 'number' ? CODES_BY_STATUS[status_code] : undefined;
  return code === undefined ? toIngestError(error) : new IngestError(code, sentence(String(body)));
}

/** What @tus/server refuses before any handler runs it answers by itself, as text. */
async function fromTusResponse(response: globalThis.Response): Promise<IngestError> {
  return fromTusError({ status_code: response.status, body: await response.text() });
}

function sentence(text: string): string {
  const line = text.trim();
  return line.endsWith('.') ? line : `${line}.`;
}
