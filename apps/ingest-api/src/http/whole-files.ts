import type { Database } from 'db-schema';
import type { Request, RequestHandler, Response } from 'express';
import type { Kysely } from 'kysely';
import { IngestError } from '../errors.ts';
import { type FoundUpload, recordWhole } from '../runs/uploads.ts';
import type { Store } from '../store/store.ts';

/** A body is held in memory until it is there. For larger files, the lock costs little beside their bytes. */
const MOST_BYTES = 128 * 1024;
/** A body that is not there by then is received under the lock, so that the bytes of a slow sender count one by one. */
const WITHIN_MS = 20;

interface WholeFileOptions {
  readonly db: Kysely<Database>;
  readonly store: Store;
  /** Rejects when the token of the request is no longer valid. */
  assertStillAllowed(req: Request): Promise<void>;
  /** Queues those runs of these uploads that are complete. */
  queueIfComplete(...uploadIds: readonly string[]): Promise<void>;
}

/**
 * PATCH with all bytes of a small file, without the statement and the commit of a claim. It is written into a file that no
 * other request knows, and one statement makes that the upload's, unless another request has claimed the upload, or moved
 * its offset, meanwhile. Without a lock there is nothing to take over, to fence, or to release. Everything else is left to
 * the routes that follow: longer files, parts, a slow or compressed body, a bucket.
 */
export function receiveWholeFiles({
  db,
  store,
  assertStillAllowed,
  queueIfComplete,
}: WholeFileOptions): RequestHandler {
  const underWay = new UnderWay();
  return async (req, res, next) => {
    const upload = res.locals.upload as FoundUpload;
    const fileName = store.newFileName(upload.uploadId);
    if (fileName === undefined || res.locals.coding !== undefined || !isWhole(req, upload)) return next();
    const chunks = await bodyAtOnce(req, res, upload.sizeBytes);
    if (chunks === undefined) return next();
    const leave = underWay.enter(upload);
    let isNamed = false; // or may be: after an error of the database nobody knows
    try {
      await store.write({
        upload: { ...upload, fileName },
        offsetBytes: 0,
        pieces: only(chunks),
        mayWrite: () => assertStillAllowed(req),
        async onDurable() {
          isNamed = true;
          isNamed = await recordWhole(db, upload, fileName);
        },
      });
    } finally {
      // If this fails, the file is removed with the upload.
      if (!isNamed)
        await store.discard({ uploadId: upload.uploadId, fileName, segments: [] }).catch(() => {});
      // Also after an error, which is then thrown: files that were received meanwhile have left the question to this one.
      const uploadIds = leave();
      const asked = uploadIds.length > 0 ? queueIfComplete(...uploadIds) : undefined;
      await (isNamed ? asked : asked?.catch(() => {}));
    }
    if (!isNamed)
      throw new IngestError(
        'upload_locked',
        'Another request is writing this upload, or has written it. Ask for the offset with HEAD and continue from there.',
        { retryAfterSeconds: 1 },
      );
    res.status(204).set('Upload-Offset', String(upload.sizeBytes)).end();
  };
}

/** After this many files the question is asked, even while others are under way. */
const MOST_UNCHECKED = 100;

/**
 * The small files that this process is receiving, by the runs that wait for them. Whether a run is complete is asked once for
 * all of them, when no other one is under way: whoever asks after all commits sees them all. (When PostgreSQL does not answer
 * the question, the sweep asks it.)
 */
class UnderWay {
  readonly #byRuns = new Map<string, { files: number; unchecked: string[] }>();

  /** @returns what to call once the file is recorded, or cannot be. It returns the uploads whose runs may now be complete. */
  enter({ uploadId, awaitedBy }: FoundUpload): () => readonly string[] {
    const runs = awaitedBy.join();
    const together = this.#byRuns.get(runs) ?? { files: 0, unchecked: [] };
    this.#byRuns.set(runs, together);
    together.files += 1;
    return () => {
      together.files -= 1;
      together.unchecked.push(uploadId);
      if (together.files === 0) this.#byRuns.delete(runs);
      else if (together.unchecked.length < MOST_UNCHECKED) return [];
      return together.unchecked.splice(0);
    };
  }
}

function isWhole(req: Request, { offsetBytes, sizeBytes, isBeingWritten }: FoundUpload): boolean {
  return (
    sizeBytes > 0 &&
    sizeBytes <= MOST_BYTES &&
    offsetBytes === 0 &&
    !isBeingWritten &&
    req.get('upload-offset') === '0' &&
    req.get('upload-length') === undefined &&
    req.get('expect') === undefined &&
    Number(req.get('content-length')) === sizeBytes
  );
}

export async function* only<T>(one: T): AsyncGenerator<T> {
  yield one;
}

/**
 * All bytes of the body, if they arrive in time; else they are put back for the next reader. When the sender has hung up
 * meanwhile, nothing can be put back: then they are in `res.locals.arrived`.
 */
async function bodyAtOnce(
  req: Request,
  res: Response,
  bytes: number,
): Promise<readonly Uint8Array[] | undefined> {
  const chunks: Uint8Array[] = [];
  let missingBytes = bytes;
  const isComplete = await new Promise<boolean>((resolve) => {
    const take = () => {
      for (let chunk: Uint8Array | null = req.read(); chunk !== null; chunk = req.read()) {
        chunks.push(chunk);
        missingBytes -= chunk.byteLength;
      }
      if (missingBytes === 0) settle();
    };
    const settle = () => {
      clearTimeout(timer);
      req.off('readable', take).off('error', settle).off('close', settle);
      resolve(missingBytes === 0);
    };
    const timer = setTimeout(settle, WITHIN_MS);
    req.on('readable', take).on('error', settle).on('close', settle);
    take();
  });
  if (isComplete) return chunks;
  if (req.destroyed) res.locals.arrived = chunks;
  else if (chunks.length > 0) req.unshift(Buffer.concat(chunks));
  return undefined;
}
