import type { Lock, Locker, RequestRelease } from '@tus/utils';
import type pg from 'pg';
import { IngestError } from '../errors.ts';
import { LockSession, type SharedLock } from './lock-session.ts';

/** A holder that brought no byte for so long is asked to give way to a new request. */
const STALLED_AFTER_MS = 1_500;
/** A new request waits so long before it is told 423. */
const WAIT_MS = 5_000;
/** How often a process asks for a lock that another one holds, besides when it is told that it is free. */
const ASK_AGAIN_MS = 300;

interface Held {
  readonly requestRelease: RequestRelease;
  readonly waiters: (() => void)[];
  /** Infinity while it waits for another process: it cannot be stalled then. */
  lastProgressMs: number;
  shared: SharedLock | undefined;
  isWantedElsewhere: boolean;
}

export interface UploadLocksOptions {
  readonly clientConfig: pg.ClientConfig;
  /** Called when the session that held every lock is lost; their holders have been told to stop. */
  onSessionLost(reason: string): void;
}

/**
 * One writer an upload at a time, in all processes. A new request queues behind the holder (no polling within
 * a process), takes over from one that is stalled, and is told 423 when the holder is alive and busy.
 *
 * Among the requests of a process the queue below decides; the one whose turn it is then takes the lock that
 * all processes share (`lock-session.ts`). (tus 1.0 leaves locking to the server; @tus/server's own
 * MemoryLocker spins, and guards one process.)
 */
export class UploadLocks implements Locker {
  readonly #held = new Map<string, Held>();
  readonly #waitingElsewhere = new Map<string, () => void>();
  readonly #session: LockSession;

  constructor({ clientConfig, onSessionLost }: UploadLocksOptions) {
    this.#session = new LockSession({
      clientConfig,
      onWanted: (uploadId) => {
        const held = this.#held.get(uploadId);
        if (held?.shared === undefined) return;
        held.isWantedElsewhere = true;
        releaseIfStalled(held);
      },
      onFreed: (uploadId) => this.#waitingElsewhere.get(uploadId)?.(),
      onLost: (reason) => {
        for (const held of this.#held.values()) if (held.shared !== undefined) held.requestRelease();
        onSessionLost(reason);
      },
    });
  }

  newLock(uploadId: string): Lock {
    return {
      lock: (signal, requestRelease) => this.#acquire(uploadId, signal, requestRelease),
      unlock: () => this.#release(uploadId),
    };
  }

  /** Says that the holder is alive: bytes came in. */
  noteProgress(uploadId: string): void {
    const held = this.#held.get(uploadId);
    if (held !== undefined) held.lastProgressMs = performance.now();
  }

  /** Rejects with a 503 when the lock may be somebody else's by now: the session that took it is lost or silent. */
  async assertHeld(uploadId: string): Promise<void> {
    if ((await this.#held.get(uploadId)?.shared?.isHeld()) === true) return;
    throw new IngestError(
      'database_unavailable',
      'The lock of this upload was lost with its database connection; ask for the offset and go on from there.',
    );
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  async #acquire(uploadId: string, signal: AbortSignal, requestRelease: RequestRelease): Promise<void> {
    const deadlineMs = performance.now() + WAIT_MS;
    await this.#takeTurn(uploadId, signal, requestRelease, deadlineMs);
    try {
      await this.#takeShared(uploadId, signal, deadlineMs);
    } catch (error) {
      await this.#release(uploadId);
      throw error;
    }
  }

  /** Resolves when no other request of this process holds the upload. */
  async #takeTurn(
    uploadId: string,
    signal: AbortSignal,
    requestRelease: RequestRelease,
    deadlineMs: number,
  ): Promise<void> {
    const before = this.#held.get(uploadId);
    if (before === undefined) {
      this.#hold(uploadId, requestRelease, []);
      return;
    }
    const { waiters } = before;
    await new Promise<void>((resolve, reject) => {
      const grant = () => {
        settle();
        this.#hold(uploadId, requestRelease, waiters);
        resolve();
      };
      const giveUp = (error: IngestError) => {
        settle();
        waiters.splice(waiters.indexOf(grant), 1);
        reject(error);
      };
      const onAbort = () => giveUp(endedWhileWaiting());
      const stallTimer = setInterval(() => {
        const holder = this.#held.get(uploadId);
        if (holder !== undefined) releaseIfStalled(holder);
      }, STALLED_AFTER_MS / 5);
      const waitTimer = setTimeout(() => giveUp(stillBusy()), deadlineMs - performance.now());
      const settle = () => {
        clearInterval(stallTimer);
        clearTimeout(waitTimer);
        signal.removeEventListener('abort', onAbort);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      waiters.push(grant);
    });
  }

  /** Resolves when no other process holds the upload. */
  async #takeShared(uploadId: string, signal: AbortSignal, deadlineMs: number): Promise<void> {
    for (;;) {
      const shared = await this.#session.tryLock(uploadId);
      const held = this.#held.get(uploadId);
      if (shared !== undefined && held !== undefined) {
        held.shared = shared;
        held.lastProgressMs = performance.now();
        return;
      }
      if (signal.aborted) throw endedWhileWaiting();
      if (performance.now() > deadlineMs) throw stillBusy();
      await this.#session.askFor(uploadId);
      await this.#freedElsewhere(uploadId);
    }
  }

  #freedElsewhere(uploadId: string): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waitingElsewhere.delete(uploadId);
        resolve();
      };
      const timer = setTimeout(done, ASK_AGAIN_MS);
      this.#waitingElsewhere.set(uploadId, done); // one at a time: only the request whose turn it is comes here
    });
  }

  #hold(uploadId: string, requestRelease: RequestRelease, waiters: (() => void)[]): void {
    this.#held.set(uploadId, {
      requestRelease,
      waiters,
      lastProgressMs: Number.POSITIVE_INFINITY,
      shared: undefined,
      isWantedElsewhere: false,
    });
  }

  async #release(uploadId: string): Promise<void> {
    const held = this.#held.get(uploadId);
    await held?.shared?.release(held.isWantedElsewhere);
    const next = held?.waiters.shift();
    if (next === undefined) this.#held.delete(uploadId);
    else next();
  }
}

function releaseIfStalled(held: Held): void {
  if (performance.now() - held.lastProgressMs >= STALLED_AFTER_MS) held.requestRelease();
}

function endedWhileWaiting(): IngestError {
  return new IngestError('upload_locked', 'The request ended while it waited for the upload.');
}

function stillBusy(): IngestError {
  return new IngestError(
    'upload_locked',
    'Another request is writing this upload and is alive; wait for it, or try again in a moment.',
    { retryAfterSeconds: 2 },
  );
}
