import type { IncomingMessage } from 'node:http';
import type { Server } from '@tus/server';
import { type CancellationContext, ERRORS, type Upload } from '@tus/utils';
import type { Request, Response } from 'express';
import type { ServerRequest } from 'srvx';
import { NodeRequest } from 'srvx/node';
import type { DurableStore } from '../store/durable-store.ts';
import { gatherBody } from '../store/gather-body.ts';

/**
 * The request as @tus/server wants it, but for its body: that stays Node's own request. The web stream that
 * it would be made into, and the three streams that @tus/server makes of that, cost half the throughput.
 */
export function requestWithNodeBody(req: Request, res: Response): ServerRequest {
  return Object.defineProperty(new NodeRequest({ req, res }), 'body', { value: req });
}

/**
 * Replaces what @tus/server does between its checks and the store (`BaseHandler.writeToStore`, 2.4.5): bodies
 * go straight from Node's request to the disk. As there, more bytes than were announced are refused, and an
 * aborted context ends the body early: what had come is kept, and its offset answered.
 */
export function writeStraightToStore(
  tus: Server,
  store: DurableStore,
  noteProgress: (uploadId: string) => void,
): void {
  async function writeToStore(
    body: IncomingMessage,
    upload: Upload,
    limitBytes: number,
    { signal }: CancellationContext,
  ): Promise<number> {
    if (signal.aborted) throw ERRORS.ABORTED;
    if (limitBytes === 0) return upload.offset; // an empty PATCH only asks for the offset, and the finish hook
    const pieces = gatherBody(body, {
      limitBytes,
      signal,
      tooMuch: () => ERRORS.ERR_MAX_SIZE_EXCEEDED,
      onProgress: () => noteProgress(upload.id),
    });
    return store.write(pieces, upload.id, upload.offset);
  }
  Object.assign(tus.handlers.PATCH, { writeToStore });
  Object.assign(tus.handlers.POST, { writeToStore });
}
