import type { Lock, Locker, RequestRelease } from '@tus/utils';
import type { ConnectOptions } from 'db-schema';
import { IngestError } from '../errors.ts';
import { copyAcknowledged, removeUploadFile, toDiskFault } from './folder.ts';
import type { UploadRecord, UploadRecords } from './tus-store.ts';
import { hasEnded, isSameProcess, type WriterSession, WriterSessions } from './writers.ts';

/** A holder that brought no byte for this long is asked to give way to a new request. */
const STALLED_AFTER_MS = 1_500;
/** A new request waits this long before its answer is 423. */
const WAIT_MS = 5_000;
/** How often a process asks for an upload that another one writes, besides when it is told that it is free. */
const ASK_AGAIN_MS = 300;

interface Held {
  readonly requestRelease: RequestRelease;
  readonly waiters: (() => void)[];
  /** Infinity while it waits for another process: it cannot be stalled then. */
  lastProgressMs: number;
  claim: UploadClaim | undefined;
  isWantedElsewhere: boolean;
}

interface UploadLocksOptions {
  readonly dataDir: string;
  readonly connection: ConnectOptions;
  readonly records: UploadRecords;
  /** Called when the session that all uploads were written under is lost; their writers were asked to stop. */
  onSessionLost(reason: string): void;
}

/**
 * One writer an upload at a time, in all processes. A new request queues behind the holder (no polling within
 * a process), takes over from one that is stalled, and is refused with 423 when the holder is alive and busy.
 *
 * Among the requests of a process the queue below decides; the one whose turn it is then enters its process as the
 * writer in the upload's record (`upload-claim.ts`), which all processes share. Whether a writer that the record names is
 * alive, its beats tell (`writer-session.ts`). From one that is gone, but may only be frozen, the upload is taken over in a
 * file of its own. (tus 1.0 leaves locking to the server; @tus/server's own MemoryLocker
 * spins, and guards one process.)
 */
export class UploadLocks implements Locker {
  readonly #held = new Map<string, Held>();
  readonly #waitingElsewhere = new Map<string, () => void>();
  readonly #dataDir: string;
  readonly #records: UploadRecords;
  readonly #sessions: WriterSessions;
  readonly #closing = new AbortController();
  #noteIdle = () => {};

  constructor({ dataDir, connection, records, onSessionLost }: UploadLocksOptions) {
    this.#dataDir = dataDir;
    this.#records = records;
    this.#sessions = new WriterSessions({
      connection,
      onWanted: (uploadId) => {
        const held = this.#held.get(uploadId);
        if (held === undefined) void this.#takeOutName(uploadId);
        if (held?.claim === undefined) return;
        held.isWantedElsewhere = true;
        releaseIfStalled(held);
      },
      onFreed: (uploadId) => this.#waitingElsewhere.get(uploadId)?.(),
      onLost: (reason) => {
        for (const held of this.#held.values()) if (held.claim !== undefined) held.requestRelease();
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

  /** The right to write an upload that this process has locked. */
  claimOf(uploadId: string): UploadClaim {
    const claim = this.#held.get(uploadId)?.claim;
    if (claim === undefined) throw new Error(`Upload ${uploadId} is to be written without its lock.`);
    return claim;
  }

  /** Resolves when every lock is given back, and what was written under it recorded. Nobody is let in any more. */
  async close(): Promise<void> {
    this.#closing.abort();
    if (this.#held.size > 0) {
      await new Promise<void>((resolve) => {
        this.#noteIdle = resolve;
      });
    }
    await this.#sessions.close();
  }

  async #acquire(
    uploadId: string,
    requestSignal: AbortSignal,
    requestRelease: RequestRelease,
  ): Promise<void> {
    const signal = AbortSignal.any([requestSignal, this.#closing.signal]);
    const deadlineMs = performance.now() + WAIT_MS;
    await this.#takeTurn(uploadId, signal, requestRelease, deadlineMs);
    try {
      const claim = await this.#claim(uploadId, signal, deadlineMs);
      const held = this.#held.get(uploadId);
      if (held === undefined) throw new Error(`The turn to write upload ${uploadId} was lost.`);
      held.claim = claim;
      held.lastProgressMs = performance.now();
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
    if (signal.aborted) throw endedWhileWaiting();
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

  /** Resolves when no other process writes the upload, and the record names this one. */
  async #claim(uploadId: string, signal: AbortSignal, deadlineMs: number): Promise<UploadClaim> {
    let insteadOf: string | undefined;
    for (;;) {
      const session = await this.#sessions.current();
      const answer = await this.#records.claim(uploadId, session.writer, insteadOf);
      if (answer === undefined)
        throw new IngestError('not_found', 'There is no such upload; declare the run again.');
      if ('record' in answer) return new UploadClaim(this.#records, session, answer.record);
      const { writer } = answer;
      if (writer === null) continue; // released a moment ago
      // An earlier request of this process is over, as it is our turn now.
      if (isSameProcess(writer, session.writer) || hasEnded(writer)) {
        insteadOf = writer;
        continue;
      }
      if (await session.isGone(writer)) {
        const taken = await this.#takeOver(uploadId, writer, session);
        if (taken === undefined) continue;
        const claim = new UploadClaim(this.#records, session, taken);
        if (!signal.aborted) return claim;
        await claim.release(false);
      }
      if (signal.aborted) throw endedWhileWaiting();
      if (performance.now() > deadlineMs) throw stillBusy();
      await session.askFor(uploadId);
      await this.#freedElsewhere(uploadId);
    }
  }

  /**
   * Continues the upload of a writer that is gone, and that may only be frozen, with a write under way: it is taken out of
   * the record first, so that what it acknowledged is final, and then left alone with its file.
   */
  async #takeOver(
    uploadId: string,
    goneWriter: string,
    session: WriterSession,
  ): Promise<UploadRecord | undefined> {
    const fenced = await this.#records.fence(uploadId, goneWriter);
    if (fenced === undefined) return undefined;
    try {
      const fileName = await copyAcknowledged(this.#dataDir, fenced);
      const isOurs = await this.#records.claimFenced(fenced, session.writer, fileName);
      // What cannot be removed now is removed with the upload.
      await removeUploadFile(this.#dataDir, isOurs ? fenced.fileName : fileName).catch(() => {});
      return isOurs ? { ...fenced, fileName } : undefined;
    } catch (error) {
      throw toDiskFault(error, uploadId);
    }
  }

  /**
   * No request of ours has this upload, but its record may name us: where the answer to a claim, or to its release, was
   * lost with a connection. Everybody is asked, so mostly it is another's. In a turn of its own, so that nobody claims it meanwhile.
   */
  async #takeOutName(uploadId: string): Promise<void> {
    this.#hold(uploadId, () => {}, []);
    try {
      const session = await this.#sessions.current();
      await this.#records.release(uploadId, session.writer);
    } catch {
      // The database is away: whoever wants the upload asks again.
    } finally {
      await this.#release(uploadId);
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
      claim: undefined,
      isWantedElsewhere: false,
    });
  }

  async #release(uploadId: string): Promise<void> {
    const held = this.#held.get(uploadId);
    await held?.claim?.release(held.isWantedElsewhere);
    const next = held?.waiters.shift();
    if (next !== undefined) {
      next();
      return;
    }
    this.#held.delete(uploadId);
    if (this.#held.size === 0) this.#noteIdle();
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

/**
 * The right to write one upload: its record names our session as the writer, and takes no offset from anyone else. Valid as
 * long as that session can be trusted.
 */
export class UploadClaim {
  /** As it was when it was claimed. */
  readonly record: UploadRecord;
  readonly #records: UploadRecords;
  readonly #session: WriterSession;
  #recordedBytes: number;
  #isReleased = false;

  constructor(records: UploadRecords, session: WriterSession, record: UploadRecord) {
    this.#records = records;
    this.#session = session;
    this.record = record;
    this.#recordedBytes = record.offsetBytes;
  }

  /** Rejects with a 503 when somebody else might write the upload by now: our session is lost or silent. */
  async assertHeld(): Promise<void> {
    if (await this.#session.isTrusted()) return;
    throw new IngestError(
      'database_unavailable',
      'The lock of this upload was lost with its database connection; ask for the offset and go on from there.',
    );
  }

  /** Records that everything up to `offsetBytes` is safe. With the last byte the upload is received, and the right spent. */
  async advance(offsetBytes: number): Promise<void> {
    const { uploadId } = this.record;
    this.#isReleased = await this.#records.advance(
      uploadId,
      this.#session.writer,
      this.#recordedBytes,
      offsetBytes,
    );
    this.#recordedBytes = offsetBytes;
  }

  /** Never rejects: a name that stays in the record when the database is away is taken out when somebody wants the upload. */
  async release(tellWaiters: boolean): Promise<void> {
    const { uploadId } = this.record;
    if (!this.#isReleased) {
      this.#isReleased = true;
      await this.#records.release(uploadId, this.#session.writer).catch(() => {});
    }
    if (tellWaiters) await this.#session.tellFreed(uploadId);
  }
}
