import { Server } from '@tus/server';
import { type CancellationContext, ERRORS, TUS_RESUMABLE, type Upload } from '@tus/utils';
import type { Database } from 'db-schema';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { Kysely } from 'kysely';
import type { ServerRequest } from 'srvx';
import { NodeRequest, sendNodeResponse } from 'srvx/node';
import type { ErrorCode } from 'wire';
import { IngestError, toIngestError } from '../errors.ts';
import { withdrawUpload } from '../runs/actions.ts';
import { newUploadId, openSingleFileRun } from '../runs/declare.ts';
import type { RunLimits } from '../runs/models.ts';
import { allows, covers, type Principals } from '../runs/tokens.ts';
import { type MovedRevision, queueCompleteRevisions } from '../runs/transitions.ts';
import { type FoundUpload, findUpload, type LostBytes, withTrueOffset } from '../runs/uploads.ts';
import type { UploadLocks } from '../store/claims.ts';
import { isUploadId, type Store } from '../store/store.ts';
import type { DurableStore } from '../store/tus-store.ts';
import { gatherBody } from '../store/write.ts';
import { principalOf, requireAccess, requireStillValid } from './auth.ts';
import { ACCEPTED_CODINGS, codingOf, type DecodedBody, decodeBody } from './content-coding.ts';
import { hasBody, letBodyCome, requireMediaType } from './json-body.ts';
import type { RoomCheck, TokenQuota } from './quota.ts';
import { fileName, parseModelParam, parseRequest, runKey } from './requests.ts';
import { only, receiveWholeFiles } from './whole-files.ts';

const PATH = '/v1/uploads';
const OFFSET_STREAM = 'application/offset+octet-stream';

interface UploadRoutesOptions {
  readonly db: Kysely<Database>;
  readonly store: Store;
  readonly maxUploadBytes: number;
  /** An unfinished upload is kept for this long after its last progress. */
  readonly expireUploadsMs: number;
  readonly tusStore: DurableStore;
  readonly locks: UploadLocks;
  readonly room: RoomCheck;
  readonly quota: TokenQuota;
  readonly runLimits: RunLimits;
  readonly principals: Principals;
  onQueued(revisions: readonly MovedRevision[]): void;
  onLost(lost: readonly LostBytes[]): void;
}

/**
 * tus 1.0 on /v1/uploads. @tus/server implements the protocol; this file decides what is specific to the service: who may
 * write which upload, where the bytes are stored, and what happens when an upload is complete.
 */
export function uploadRoutes(options: UploadRoutesOptions): Router {
  const { db, store, locks, room, quota, principals, maxUploadBytes, expireUploadsMs } = options;
  const queueIfComplete = async (...uploadIds: readonly string[]) =>
    options.onQueued(await queueCompleteRevisions(db, { uploadIds }));
  const assertStillAllowed = (req: Request) => requireStillValid(principals, req);
  const tus = new Server({
    path: PATH,
    datastore: options.tusStore,
    maxSize: maxUploadBytes,
    locker: locks,
    lockDrainTimeout: 1, // `UploadLocks` has waited already: a stalled holder is stopped at once
    // Relative to the request's own path, so that it is right below the path prefix of a proxy, too (RFC 9110 §10.2.2).
    generateUrl: (req, { id }) => (new URL(req.url).pathname.endsWith('/') ? id : `uploads/${id}`),
    allowedOrigins: () => false, // no pages of other origins
    getFileIdFromRequest: (_req, lastPath) => (isUploadId(lastPath ?? '') ? lastPath : undefined),
    namingFunction: newUploadId,
    onUploadCreate: async (req, upload) => {
      const metadata = req.headers.get('upload-metadata') ?? '';
      await createSingleFileRun(responseOf(req), upload, metadata);
      return {};
    },
    onUploadFinish: async (_req, { id: uploadId }) => {
      await queueIfComplete(uploadId);
      return {};
    },
    onResponseError: (req, error) => {
      const known = fromTusError(error);
      responseOf(req).locals.error = known;
      return { status_code: 500, body: '' }; // `speakTus` replaces it by the problem document
    },
  });

  writeStraightToStore(tus, options.tusStore, {
    noteProgress: (uploadId) => locks.noteProgress(uploadId),
    assertStillAllowed,
  });
  const wholeFiles = receiveWholeFiles({
    db,
    store,
    assertStillAllowed,
    queueIfComplete,
  });

  async function createSingleFileRun(res: Response, upload: Upload, metadata: string): Promise<void> {
    const given = upload.metadata ?? {};
    const model = parseModelParam(given.model ?? '');
    requireAccess(res, 'push', model);
    const run = parseRequest(runKey, given.run, 'The metadata "run"');
    const name = parseRequest(fileName, given.filename, 'The metadata "filename"');
    const sizeBytes = upload.size ?? 0;
    room.checkSize(name, sizeBytes);
    const reserveRoom = await room.measure();
    const owner = principalOf(res).name;
    await openSingleFileRun(db, {
      uploadId: upload.id,
      model,
      run,
      name,
      sizeBytes,
      metadata,
      declaredBy: owner,
      limits: options.runLimits,
      admit: (trx) => quota.admitRun(trx, owner, 1),
      reserve: async (trx) => {
        await quota.reserve(trx, owner, 1, sizeBytes);
        await reserveRoom(trx, sizeBytes);
      },
    });
  }

  /**
   * `Upload-Expires` of an unfinished upload (§Expiration): the earliest time at which it may be removed. Bytes for any
   * file of its run extend it. HEAD also gets `Upload-Metadata` as the client sent it.
   */
  function addUploadHeaders(req: Request, res: Response, headers: Headers): void {
    const upload = res.locals.upload as FoundUpload | undefined; // none for a creation
    const offset = headers.get('upload-offset');
    const sizeBytes = upload?.sizeBytes ?? Number(req.get('upload-length'));
    if (req.method !== 'OPTIONS' && Number(offset ?? 0) < sizeBytes) {
      const hasProgress = upload === undefined || Number(offset) > upload.offsetBytes;
      const sinceMs = hasProgress ? Date.now() : upload.lastProgressAt.getTime();
      headers.set('Upload-Expires', new Date(sinceMs + expireUploadsMs).toUTCString());
    }
    if (req.method === 'HEAD' && upload?.metadata) headers.set('Upload-Metadata', upload.metadata);
  }

  /**
   * HEAD of an upload without a writer: its record is right without the lock. With a writer, @tus/server answers and waits
   * for the lock: a stalled writer then releases it, and the bytes that it had received count.
   */
  const answerUnlocked: RequestHandler = (req, res, next) => {
    const { isBeingWritten, offsetBytes, sizeBytes } = res.locals.upload as FoundUpload;
    if (isBeingWritten) return next();
    const headers = new Headers({
      'Cache-Control': 'no-store',
      'Upload-Offset': String(offsetBytes),
      'Upload-Length': String(sizeBytes),
    });
    addUploadHeaders(req, res, headers);
    res.status(200).setHeaders(headers).end();
  };

  const speakTus: RequestHandler = async (req, res) => {
    const response = await tus.handleWeb(requestWithNodeBody(req, res));
    if (req.method === 'OPTIONS') response.headers.set('Accept-Encoding', ACCEPTED_CODINGS); // RFC 7694 §3
    if (response.status < 400) {
      addUploadHeaders(req, res, response.headers);
      await sendNodeResponse(res, response);
      return;
    }
    throw res.locals.error ?? (await fromTusResponse(response));
  };

  const router = Router();
  router.use(PATH, ignoreOverride, requireTusVersion);
  router.options([PATH, `${PATH}/:id`], speakTus);
  router.post(PATH, requireTusBody, requireFittingLength, requireReadableMetadata, speakTus);

  router.use(`${PATH}/:id`, async (req, res, next) => {
    const { id } = req.params as { id: string };
    const upload = isUploadId(id) ? await findUpload(db, id) : undefined;
    // An upload of a model that the token does not cover gets the same answer as one that does not exist.
    if (upload === undefined || !covers(principalOf(res), upload.model))
      throw new IngestError('not_found', 'There is no such upload. Declare the run again.');
    const mayEndAny = req.method === 'DELETE' && allows(principalOf(res), 'operate');
    requireAccess(res, mayEndAny ? 'operate' : 'push', upload.model);
    const found = await withTrueOffset(db, store, upload, options.onLost);
    if (found === undefined)
      throw new IngestError(
        'upload_gone',
        'The disk lost bytes of this upload, and no run needs it any more. Declare the run again.',
      );
    res.locals.upload = found;
    next();
  });
  router.head(`${PATH}/:id`, requireAwaited, answerUnlocked, speakTus);
  router.patch(`${PATH}/:id`, requireTusBody, requireAwaited, wholeFiles, speakTus);
  router.delete(`${PATH}/:id`, async (req, res) => {
    await withdrawUpload(db, store, req.params.id, principalOf(res));
    res.status(204).end();
  });
  return router;
}

/** tus 1.0 §Tus-Resumable: on every response to these paths, including errors that are thrown before the routes. */
export const tusVersionOnEveryAnswer: RequestHandler = (req, res, next) => {
  if (/^\/v1\/uploads(\/|$)/i.test(req.path)) res.set('Tus-Resumable', TUS_RESUMABLE);
  next();
};

/** tus 1.0 lets a client override the method with a header. It is ignored: a proxy that filters by method does not see it. */
const ignoreOverride: RequestHandler = (req: Request, _res, next) => {
  delete req.headers['x-http-method-override'];
  next();
};

/** tus 1.0 §Tus-Resumable: a request with another version gets 412 with the supported version, and changes nothing. */
const requireTusVersion: RequestHandler = (req, res, next) => {
  const version = req.get('tus-resumable');
  if (req.method === 'OPTIONS' || version === TUS_RESUMABLE) return next();
  res.set('Tus-Version', TUS_RESUMABLE);
  throw new IngestError(
    'precondition_failed',
    `The header Tus-Resumable must be ${TUS_RESUMABLE}; it is ${version === undefined ? 'missing' : JSON.stringify(version.slice(0, 80))}.`,
  );
};

/** A PATCH always has a body, possibly empty; a POST may have one (creation-with-upload). */
const requireTusBody: RequestHandler = (req, res, next) => {
  res.locals.coding = codingOf(req, res);
  if (req.method === 'PATCH' || hasBody(req)) {
    requireMediaType(req, OFFSET_STREAM);
    res.locals.hasBytes = true;
  }
  next();
};

/** A creation with a body that is longer than the upload declares nothing. */
const requireFittingLength: RequestHandler = (req, res, next) => {
  if (res.locals.coding !== undefined) return next(); // its length says nothing about the decoded bytes
  const body = Number(req.headers['content-length'] ?? 0);
  const upload = req.get('upload-length') ?? '';
  if (/^\d+$/.test(upload) && body > Number(upload)) {
    throw new IngestError(
      'too_large',
      `The body has ${body} bytes, more than the Upload-Length of ${upload}. Nothing was declared.`,
    );
  }
  next();
};

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const CONTROL = /\p{C}/u;

/**
 * Values must be UTF-8 text without control characters. tus 1.0 §Upload-Metadata does not restrict them, but @tus/server
 * replaces bytes that are not UTF-8, so that two names can become one, and PostgreSQL's jsonb does not accept NUL.
 * (@tus/server checks the form of the header, and that no key occurs twice.)
 */
const requireReadableMetadata: RequestHandler = (req, _res, next) => {
  const header = req.get('upload-metadata') ?? '';
  for (const pair of header.split(',')) {
    const [key = '', value = ''] = pair.trim().split(' ');
    if (isPrintable(value)) continue;
    throw new IngestError(
      'invalid_request',
      `The metadata ${JSON.stringify(key)} must be UTF-8 text without control characters, in base64.`,
    );
  }
  next();
};

function isPrintable(base64: string): boolean {
  try {
    return !CONTROL.test(utf8.decode(Buffer.from(base64, 'base64')));
  } catch {
    return false; // not UTF-8
  }
}

/** An unfinished upload that no run waits for any more accepts no bytes. */
const requireAwaited: RequestHandler = (_req, res, next) => {
  const { awaitedBy, offsetBytes, sizeBytes } = res.locals.upload as FoundUpload;
  if (awaitedBy.length > 0 || offsetBytes === sizeBytes) return next();
  throw new IngestError(
    'upload_gone',
    'The run of this upload was cancelled, or replaced by a newer revision. Declare the run again.',
  );
};

/**
 * The web request that @tus/server expects, with Node's own request for its body: the web stream that it would become, and
 * the three streams that @tus/server makes of that, halve the throughput. The media type replaces the header, which was
 * checked already: @tus/server compares it case-sensitively. It would also take the length of a compressed body for the
 * number of its bytes.
 */
function requestWithNodeBody(req: Request, res: Response): ServerRequest {
  const request = new NodeRequest({ req, res });
  if (res.locals.hasBytes === true) request.headers.set('content-type', OFFSET_STREAM);
  if (res.locals.coding !== undefined) request.headers.delete('content-length');
  return Object.defineProperty(request, 'body', { value: req });
}

/**
 * Replaces the step of @tus/server between its checks and the store (`BaseHandler.writeToStore`, 2.4.5): bodies are written
 * from Node's request to the disk without streams in between. As there, more bytes than declared are refused, and an
 * aborted context (another request takes over, or the lock is lost) ends the body early: the bytes that have arrived are
 * kept, and the response has their offset. When none have arrived, the response is an error: a 204 would not say why.
 */
function writeStraightToStore(
  tus: Server,
  store: DurableStore,
  hooks: {
    noteProgress(uploadId: string): void;
    /** Rejects when the token of the request is no longer valid. */
    assertStillAllowed(req: Request): Promise<void>;
  },
): void {
  async function writeToStore(
    body: Request,
    upload: Upload,
    limitBytes: number,
    { signal }: CancellationContext,
  ): Promise<number> {
    if (limitBytes === 0) return upload.offset; // an empty PATCH writes nothing; the response has the offset
    const res = body.res as Response;
    letBodyCome(body, res);
    const onProgress = () => hooks.noteProgress(upload.id);
    const { coding, arrived } = res.locals;
    const decoded: DecodedBody | undefined =
      coding === undefined ? undefined : decodeBody(body, res, coding, { limitBytes, onProgress });
    const gathered = gatherBody(decoded?.bytes ?? body, {
      gathering: store.gathering,
      limitBytes,
      signal,
      tooMuch: () => ERRORS.ERR_MAX_SIZE_EXCEEDED,
      onProgress,
    });
    const pieces = arrived === undefined ? gathered : only<readonly Uint8Array[]>(arrived);
    const offset = await store
      .write(pieces, upload.id, upload.offset, () => hooks.assertStillAllowed(body))
      .finally(() => decoded?.close());
    const fault = decoded?.fault();
    if (fault !== undefined) throw fault;
    if (offset === upload.offset && signal.aborted) {
      throw new IngestError(
        'upload_locked',
        'This request may not write the upload any more: another request took it over, or the service lost its database connection. Ask for the offset with HEAD and continue from there.',
        { retryAfterSeconds: 1 },
      );
    }
    return offset;
  }
  Object.assign(tus.handlers.PATCH, { writeToStore });
  Object.assign(tus.handlers.POST, { writeToStore });
}

/** Express's response behind the web request that @tus/server works with. */
function responseOf(req: ServerRequest): Response {
  const res = req.runtime?.node?.res;
  if (res === undefined) throw new Error('The tus server received a request without a Node response.');
  return res as Response;
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

/** @tus/server throws plain objects with a status and a text. */
function fromTusError(error: unknown): IngestError {
  const { status_code, body } = error as { status_code?: unknown; body?: unknown };
  if (error === ERRORS.INVALID_OFFSET) {
    return new IngestError(
      'offset_conflict',
      'The Upload-Offset of the request is not the offset of the upload. Ask for it with HEAD and continue from there.',
    );
  }
  const code = typeof status_code === 'number' ? CODES_BY_STATUS[status_code] : undefined;
  return code === undefined ? toIngestError(error) : new IngestError(code, sentence(String(body)));
}

/** Where @tus/server refuses a request before any handler runs, it answers itself, with text. */
async function fromTusResponse(response: globalThis.Response): Promise<IngestError> {
  return fromTusError({ status_code: response.status, body: await response.text() });
}

function sentence(text: string): string {
  const line = text.trim();
  return line.endsWith('.') ? line : `${line}.`;
}
