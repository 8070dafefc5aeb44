import { open } from 'node:fs/promises';
import type { FileSource } from 'tus-js-client';
import type { StreamBody } from '../net/stream-body.ts';
import { identityOf, sameIdentity } from '../source/file-identity.ts';
import type { HashedFile } from '../source/hash-run.ts';
import { changedSource, unreadableSource } from '../source/source-fault.ts';

// Small enough that the stall watchdog sees a slow line move, large enough that reading costs nothing.
const READ_BYTES = 64 * 1024;

/**
 * The file as tus-js-client's source: each slice is a promise to read that range from disk, made good only
 * when it is sent, and only if the file is still the one that was hashed. (The library's own source takes
 * the file as it finds it, keeps its descriptors when a request fails, and hangs when the file has become
 * shorter.)
 */
export function fileSlices(file: HashedFile, flow: Pick<StreamBody, 'onBytes' | 'pauseMs'>): FileSource {
  return {
    size: file.identity.bytes,
    slice: async (start, end) => ({
      value: sliceBody(file, start, Math.min(end, file.identity.bytes), flow),
      done: end >= file.identity.bytes,
    }),
    close: () => {},
  };
}

/** tus-js-client reads `size` from it and hands it on to the HTTP stack as it is. */
export type SliceBody = StreamBody & { size: number };

function sliceBody(
  file: HashedFile,
  start: number,
  end: number,
  flow: Pick<StreamBody, 'onBytes' | 'pauseMs'>,
): SliceBody {
  return {
    size: end - start,
    sizeBytes: end - start,
    ...flow,
    tooShort: () => changedSource(file.path),
    unreadable: (cause) => unreadableSource(file.path, cause),
    open: async () => {
      const handle = await open(file.path, 'r').catch((error: unknown) => {
        throw unreadableSource(file.path, error);
      });
      if (!sameIdentity(identityOf(await handle.stat({ bigint: true })), file.identity)) {
        await handle.close();
        throw changedSource(file.path);
      }
      return handle.createReadStream({ start, end: end - 1, highWaterMark: READ_BYTES });
    },
  };
}
