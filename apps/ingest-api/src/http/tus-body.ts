import type { Server } from '@tus/server';
import { type CancellationContext, ERRORS, type Upload } from '@tus/utils';
import type { Request, Response } from 'express';
import type { ServerRequest } from 'srvx';
import { NodeRequest } from 'srvx/node';
import { IngestError } from '../errors.ts';
import type { DurableStore } from '../store/durable-store.ts';
import { gatherBody } from '../store/gather-body.ts';
import { letBodyCome } from './json-body.ts';

/**
 * The request as @tus/server wants it, but for its body: that stays Node's own request. The web stream that
 * it would be made into, and the three streams that @tus/server makes of that, cost half the throughput. `mediaType` is the
 * one that was found good; @tus/server compares its letters, and does not fold their case.
 */
export function requestWithNodeBody(
  req: Request,
  res: Response,
  mediaType: string | undefined,
): ServerRequest {
  const request = new NodeRequest({ req, res });
  if (mediaType !== undefined) request.headers.set('content-type', mediaType);
  return Object.defineProperty(request, 'body', { value: req });
}

/**
 * Replaces what @tus/server does between its checks and the store (`BaseHandler.writeToStore`, 2.4.5): bodies
 * go straight from Node's request to the disk. As there, more bytes than were announced are refused, and an
 * aborted context (another request has taken over, or the lock is lost) ends the body early: what had come is kept, and
 * its offset answered. Where nothing had come, the sender hears why: 204 would say that the service took none of its bytes.
 */
export function writeStraightToStore(
  tus: Server,
  store: DurableStore,
  hooks: {
    noteProgress(uploadId: string): void;
    /** Rejects when whoever sends the body may not do so any more. */
    assertStillAllowed(req: Request): Promise<void>;
  },
): void {
  async function writeToStore(
    body: Request,
    upload: Upload,
    limitBytes: number,
    { signal }: CancellationContext,
  ): Promise<number> {
    if (limitBytes === 0) return upload.offset; // an empty PATCH only asks for the offset, and the finish hook
    letBodyCome(body, body.res as Response);
    const pieces = gatherBody(body, {
      limitBytes,
      signal,
      tooMuch: () => ERRORS.ERR_MAX_SIZE_EXCEEDED,
      onProgress: () => hooks.noteProgress(upload.id),
    });
    const offset = await store.write(pieces, upload.id, upload.offset, () => hooks.assertStillAllowed(body));
    if (offset === upload.offset && signal.aborted) {
      throw new IngestError(
        'upload_locked',
        'This request has lost the upload, to another one or with a connection to the database; ask for its offset and go on from there.',
        { retryAfterSeconds: 1 },
      );
    }
    return offset;
  }
  Object.assign(tus.handlers.PATCH, { writeToStore });
  Object.assign(tus.handlers.POST, { writeToStore });
}
