import type { Lock, Locker, RequestRelease } from '@tus/utils';
import { IngestError } from '../errors.ts';

/** A holder that brought no byte for so long is asked to give way to a new request. */
const STALLED_AFTER_MS = 1_500;
/** A new request waits so long before it is told 423. */
const WAIT_MS = 5_000;

interface Waiter {
  readonly grant: () => void;
}

interface Held {
  lastProgressMs: number;
  readonly requestRelease: RequestRelease;
  readonly waiters: Waiter[];
}

/**
 * One writer an upload at a time. A new request queues behind the holder (no polling), takes over from one
 * that is stalled, and is told 423 when the holder is alive and busy.
 *
 * It guards one process. (tus 1.0 leaves locking to the server; @tus/server's own MemoryLocker spins.)
 */
export class UploadLocks implements Locker {
  readonly #held = new Map<string, Held>();

  newLock(uploadId: string): Lock {
    return {
      lock: (signal, requestRelease) => this.#acquire(uploadId, signal, requestRelease),
      unlock: async () => this.#release(uploadId),
    };
  }

  /** Says that the holder is alive: bytes came in. */
  noteProgress(uploadId: string): void {
    const held = this.#held.get(uploadId);
    if (held !== undefined) held.lastProgressMs = Date.now();
  }

  async #acquire(uploadId: string, signal: AbortSignal, requestRelease: RequestRelease): Promise<void> {
    const held = this.#held.get(uploadId);
    if (held === undefined) {
      this.#hold(uploadId, requestRelease, []);
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const waiter: Waiter = {
        grant: () => {
          settle();
          this.#hold(uploadId, requestRelease, held.waiters);
          resolve();
        },
      };
      const giveUp = (error: IngestError) => {
        settle();
        held.waiters.splice(held.waiters.indexOf(waiter), 1);
        reject(error);
      };
      const onAbort = () =>
        giveUp(new IngestError('upload_locked', 'The request ended while it waited for the upload.'));
      const stallTimer = setInterval(() => {
        const holder = this.#held.get(uploadId);
        if (holder !== undefined && Date.now() - holder.lastProgressMs >= STALLED_AFTER_MS)
          holder.requestRelease();
      }, STALLED_AFTER_MS / 5);
      const waitTimer = setTimeout(
        () =>
          giveUp(
            new IngestError(
              'upload_locked',
              'Another request is writing this upload and is alive; wait for it, or try again in a moment.',
              { retryAfterSeconds: 2 },
            ),
          ),
        WAIT_MS,
      );
      const settle = () => {
        clearInterval(stallTimer);
        clearTimeout(waitTimer);
        signal.removeEventListener('abort', onAbort);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      held.waiters.push(waiter);
    });
  }

  #hold(uploadId: string, requestRelease: RequestRelease, waiters: Waiter[]): void {
    this.#held.set(uploadId, { lastProgressMs: Date.now(), requestRelease, waiters });
  }

  #release(uploadId: string): void {
    const next = this.#held.get(uploadId)?.waiters.shift();
    if (next === undefined) this.#held.delete(uploadId);
    else next.grant();
  }
}
