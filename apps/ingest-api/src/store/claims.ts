import type { Lock, Locker, RequestRelease } from '@tus/utils';
import type { ConnectOptions } from 'db-schema';
import { IngestError } from '../errors.ts';
import type { Segment, Store, UploadRecord } from './store.ts';
import { hasEnded, isSameProcess, type WriterSession, WriterSessions } from './writers.ts';

/** A holder that received no bytes for this long is asked to release the upload to a new request. */
const STALLED_AFTER_MS = 1_500;
/** A new request waits this long before it gets 423. */
const WAIT_MS = 5_000;
/** Interval at which a process asks again for an upload of another one, in case the notification of its release is lost. */
const ASK_AGAIN_MS = 300;

interface UploadLocksOptions {
  readonly store: Store;
  readonly connection: ConnectOptions;
  readonly records: UploadRecords;
  /** Called when this process lost the session that it writes all uploads under; their requests were asked to stop. */
  onSessionLost(reason: string): void;
}

/**
 * Allows one writer per upload at a time, across all processes. A new request queues behind the holder (no polling within
 * a process), takes over from a stalled one, and gets 423 when the holder is alive and busy.
 *
 * The queue below orders the requests of one process. The first in the queue then enters its process as the writer in the
 * upload's record (`UploadClaim`), which all processes share. Beats show whether a writer that a record names is alive
 * (`writers.ts`). When it is gone, it may only be frozen: the next writer continues where the late bytes of that one do not count. (tus 1.0 leaves locking
 * to the server; the MemoryLocker of @tus/server spins, and guards one process.)
 */
export class UploadLocks implements Locker {
  readonly #held = new Map<string, Held>();
  readonly #waitingElsewhere = new Map<string, () => void>();
  /** Uploads whose record may name this process although none of its requests writes them: an answer was lost. */
  readonly #maybeNamed = new Set<string>();
  readonly #store: Store;
  readonly #records: UploadRecords;
  readonly #sessions: WriterSessions;
  readonly #closing = new AbortController();
  #noteIdle = () => {};

  constructor({ store, connection, records, onSessionLost }: UploadLocksOptions) {
    this.#store = store;
    this.#records = records;
    this.#sessions = new WriterSessions({
      connection,
      onWanted: (uploadId) => {
        const held = this.#held.get(uploadId);
        // Every login of the database may send such notifications: only a lost answer makes them cost a statement.
        if (held === undefined && this.#maybeNamed.has(uploadId)) void this.#removeStaleName(uploadId);
        if (held?.claim === undefined) return;
        held.isWantedElsewhere = true;
        releaseIfStalled(held);
      },
      onFreed: (uploadId) => this.#waitingElsewhere.get(uploadId)?.(),
      onLost: (reason) => {
        for (const held of this.#held.values()) if (held.claim !== undefined) held.requestRelease();
        this.#maybeNamed.clear(); // others see that the lost session is gone
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

  /** To be called when the holder receives bytes: it is not stalled. */
  noteProgress(uploadId: string): void {
    const held = this.#held.get(uploadId);
    if (held !== undefined) held.lastProgressMs = performance.now();
  }

  /** The right to write an upload that this process has locked. */
  claimOf(uploadId: string): UploadClaim {
    const claim = this.#held.get(uploadId)?.claim;
    if (claim === undefined) throw new Error(`Upload ${uploadId} was accessed without its lock.`);
    return claim;
  }

  /** Refuses new requests. Resolves when every lock is released, and the bytes written under it are recorded. */
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
      if (!(error instanceof IngestError)) this.#maybeNamed.add(uploadId); // of the database: the claim may have arrived
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
      const leave = (error: IngestError) => {
        settle();
        waiters.splice(waiters.indexOf(grant), 1);
        reject(error);
      };
      const onAbort = () => leave(endedWhileWaiting());
      const stallTimer = setInterval(() => {
        const holder = this.#held.get(uploadId);
        if (holder !== undefined) releaseIfStalled(holder);
      }, STALLED_AFTER_MS / 5);
      const waitTimer = setTimeout(() => leave(stillBusy()), deadlineMs - performance.now());
      const settle = () => {
        clearInterval(stallTimer);
        clearTimeout(waitTimer);
        signal.removeEventListener('abort', onAbort);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      waiters.push(grant);
    });
  }

  /** Resolves when the record of the upload names this process as its writer. */
  async #claim(uploadId: string, signal: AbortSignal, deadlineMs: number): Promise<UploadClaim> {
    let insteadOf: string | undefined;
    for (;;) {
      const session = await this.#sessions.current();
      const answer = await this.#records.claim(uploadId, session.writer, insteadOf);
      if (answer === undefined)
        throw new IngestError('not_found', 'There is no such upload. Declare the run again.');
      if ('record' in answer) return new UploadClaim(this.#records, session, answer.record);
      const { writer } = answer;
      if (writer === null) continue; // it has just been released
      // A name of this process is from a request that has ended: this one is first in the queue now.
      if (isSameProcess(writer, session.writer) || hasEnded(writer)) {
        insteadOf = writer;
        continue;
      }
      if (await session.isGone(writer)) {
        const record = await this.#takeOver(uploadId, writer, session);
        if (record === undefined) continue;
        const claim = new UploadClaim(this.#records, session, record);
        if (!signal.aborted) return claim;
        if (!(await claim.release(false))) this.#maybeNamed.add(uploadId);
      }
      if (signal.aborted) throw endedWhileWaiting();
      if (performance.now() > deadlineMs) throw stillBusy();
      await session.notifyWanted(uploadId);
      await this.#freedElsewhere(uploadId);
    }
  }

  /**
   * Continues the upload of a writer that is gone, and that may only be frozen in the middle of a write. First removes it
   * from the record, so that the acknowledged offset is final; then the store sees to it that its late bytes do not count.
   */
  async #takeOver(
    uploadId: string,
    goneWriter: string,
    session: WriterSession,
  ): Promise<UploadRecord | undefined> {
    const fenced = await this.#records.fence(uploadId, goneWriter);
    if (fenced === undefined) return undefined;
    const fileName = await this.#store.takeOver(fenced);
    const isOurs = await this.#records.claimFenced(fenced, session.writer, fileName);
    if (fileName !== fenced.fileName) {
      const unused = isOurs ? fenced.fileName : fileName;
      // If this fails, the file is removed with the upload.
      await this.#store.discard({ uploadId, fileName: unused, segments: [] }).catch(() => {});
    }
    return isOurs ? { ...fenced, fileName } : undefined;
  }

  /**
   * Another process wants an upload that no request of this process holds, and whose record may still name this process:
   * a connection was lost before the answer to a claim or a release arrived. Holds the upload meanwhile, so that no request
   * of this process claims it.
   */
  async #removeStaleName(uploadId: string): Promise<void> {
    this.#hold(uploadId, () => {}, []);
    try {
      const session = await this.#sessions.current();
      await this.#records.release(uploadId, session.writer);
    } catch {
      // The database cannot be reached. The process that wants the upload asks again.
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
      this.#waitingElsewhere.set(uploadId, done); // only the first request of the queue waits here
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
    const isFree = (await held?.claim?.release(held.isWantedElsewhere)) ?? true;
    if (!isFree) this.#maybeNamed.add(uploadId);
    const next = held?.waiters.shift();
    if (next !== undefined) {
      next();
      return;
    }
    this.#held.delete(uploadId);
    if (this.#held.size === 0) this.#noteIdle();
  }
}

interface Held {
  readonly requestRelease: RequestRelease;
  readonly waiters: (() => void)[];
  /** Infinity while it waits for another process: meanwhile it is not stalled. */
  lastProgressMs: number;
  claim: UploadClaim | undefined;
  isWantedElsewhere: boolean;
}

function releaseIfStalled(held: Held): void {
  if (performance.now() - held.lastProgressMs >= STALLED_AFTER_MS) held.requestRelease();
}

function endedWhileWaiting(): IngestError {
  return new IngestError('upload_locked', 'The request ended while it waited for the lock of the upload.');
}

function stillBusy(): IngestError {
  return new IngestError(
    'upload_locked',
    'Another request is writing this upload. Wait for it to end, or try again in a few seconds.',
    { retryAfterSeconds: 2 },
  );
}

/**
 * The right to write one upload: its record names the session of this process as the writer, and no other writer can move
 * its offset. Valid while that session can be trusted.
 */
export class UploadClaim {
  /** The record as it was when it was claimed. */
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

  /** Rejects with a 503 when the session is lost or silent, so that another process may be writing the upload. */
  async assertHeld(): Promise<void> {
    if (await this.#session.isTrusted()) return;
    throw new IngestError(
      'database_unavailable',
      'The service lost the lock of this upload with its database connection. Ask for the offset with HEAD and continue from there.',
    );
  }

  /** Records that the bytes up to `offsetBytes` are safe. With the last byte the upload is received, and the claim ends. */
  async advance(offsetBytes: number, segment?: Segment): Promise<void> {
    const { uploadId } = this.record;
    this.#isReleased = await this.#records.advance(
      uploadId,
      this.#session.writer,
      this.#recordedBytes,
      offsetBytes,
      segment,
    );
    this.#recordedBytes = offsetBytes;
  }

  /**
   * Never rejects: a name that stays in the record is removed when another request wants the upload.
   *
   * @returns false when the database did not answer, so that the record may still name this process.
   */
  async release(notifyWaiters: boolean): Promise<boolean> {
    const { uploadId } = this.record;
    let isFree = true;
    if (!this.#isReleased) {
      this.#isReleased = true;
      isFree = await this.#records.release(uploadId, this.#session.writer).then(
        () => true,
        () => false,
      );
    }
    if (notifyWaiters) await this.#session.notifyFreed(uploadId);
    return isFree;
  }
}

export interface UploadRecords {
  /**
   * Makes `writer` the only one whose `advance` succeeds. Changes nothing when the record names another writer, unless it is
   * the one in `insteadOf`.
   */
  claim(uploadId: string, writer: string, insteadOf?: string): Promise<ClaimAnswer>;
  /**
   * Removes `writer`, which may only be frozen, from the record: it can no longer move the offset, and the next writer
   * continues in another file. Undefined when it is not the upload's writer any more.
   */
  fence(uploadId: string, writer: string): Promise<UploadRecord | undefined>;
  /** Claims a fenced upload, with `fileName` for its file. False when the record has changed since it was fenced. */
  claimFenced(fenced: UploadRecord, writer: string, fileName: string): Promise<boolean>;
  /**
   * Moves the durable offset. Rejects when it is no longer `fromBytes`, or `writer` no longer the writer. With the last
   * byte the upload is received, and the record names no writer. The object of a bucket gets its row in the same statement.
   *
   * @returns whether the upload is received.
   */
  advance(
    uploadId: string,
    writer: string,
    fromBytes: number,
    toBytes: number,
    segment?: Segment,
  ): Promise<boolean>;
  /** Removes `writer` from the record, if it is there. */
  release(uploadId: string, writer: string): Promise<void>;
}

/**
 * The record when it was claimed, else the writer that it names (null: one that has just released it). Undefined for an
 * upload that does not exist or was removed.
 */
type ClaimAnswer = { readonly record: UploadRecord } | { readonly writer: string | null } | undefined;
