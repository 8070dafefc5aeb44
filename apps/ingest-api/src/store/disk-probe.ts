import { utimes } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { IngestError } from '../errors.ts';
import { assertStoreIsThere, syncFolder } from './folder.ts';

/** A disk that takes longer to sync a few bytes hangs, or is far too busy for uploads. */
const ANSWERS_WITHIN_MS = 5_000;

/**
 * Makes the disk of `dataDir` write something small, and waits for it. A call to a disk that hangs never ends
 * and keeps a thread for ever, so there is only one at a time.
 *
 * @returns a function that rejects when the disk does not take writes.
 */
export function diskProbe(dataDir: string): () => Promise<void> {
  let underWay: Promise<void> | undefined;
  return async () => {
    underWay ??= touch(dataDir).finally(() => {
      underWay = undefined;
    });
    const late = new AbortController();
    try {
      await Promise.race([underWay, delay(ANSWERS_WITHIN_MS, undefined, late).then(hangs)]);
    } catch (error) {
      if (error instanceof IngestError) throw error;
      throw new IngestError('storage_fault', 'The disk with the uploads takes no write.', { cause: error });
    } finally {
      late.abort();
    }
  };
}

async function touch(folder: string): Promise<void> {
  await assertStoreIsThere(folder);
  const now = new Date();
  await utimes(folder, now, now);
  await syncFolder(folder);
}

function hangs(): never {
  throw new IngestError(
    'storage_fault',
    `The disk with the uploads did not finish a small write within ${ANSWERS_WITHIN_MS / 1000} s.`,
  );
}
