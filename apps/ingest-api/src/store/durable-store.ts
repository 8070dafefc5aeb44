import type { FileHandle } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { FileStore } from '@tus/file-store';
import { ERRORS, Upload } from '@tus/utils';
import { IngestError, isDatabaseUnavailable } from '../errors.ts';
import { writeDurably } from './durable-write.ts';
import { GRACE_MS } from './lock-session.ts';
import { isUploadId, openForWriting, syncFolder } from './upload-files.ts';
import { hasEnded, newWriterName } from './writer-identity.ts';

/** What the store must remember about an upload; kept in PostgreSQL, so that no record can be torn. */
export interface UploadRecord {
  readonly uploadId: string;
  readonly sizeBytes: number;
  /** Synced bytes. */
  readonly offsetBytes: number;
  readonly metadata: Record<string, string | null> | null;
  readonly createdAt: Date;
}

export interface UploadRecords {
  /** Resolves to undefined for an upload that never was, or that was removed. */
  find(uploadId: string): Promise<UploadRecord | undefined>;
  /**
   * Makes `writer` the only one whose `advance` is taken from now on; rejects when the upload is not at
   * `atBytes`. When another one has not ended in order, and is not the one that `insteadOf` names, nothing is
   * changed and its name is given.
   */
  claim(uploadId: string, writer: string, atBytes: number, insteadOf?: string): Promise<string | undefined>;
  /**
   * Moves the durable offset; rejects when it is not at `fromBytes` any more, or `writer` not its writer. With the last
   * byte the upload is received, and `writer` released.
   *
   * @returns whether it is.
   */
  advance(uploadId: string, writer: string, fromBytes: number, toBytes: number): Promise<boolean>;
  /** `writer` writes no more. */
  release(uploadId: string, writer: string): Promise<void>;
}

export interface DurableStoreOptions {
  readonly dataDir: string;
  readonly records: UploadRecords;
  /** Rejects when the lock of the upload, under which it is written, is not ours any more. */
  assertLocked(uploadId: string): Promise<void>;
}

/**
 * The tus server's store: bytes in one file an upload, records elsewhere, and nothing acknowledged that is
 * not synced. Creation and removal belong to the run that an upload is part of (`runs/`), not to the store.
 */
export class DurableStore extends FileStore {
  readonly #options: DurableStoreOptions;
  readonly #writer = newWriterName();
  readonly #active = new Set<Promise<number>>();

  constructor(options: DurableStoreOptions) {
    // FileStore makes its folder without waiting for it: `prepareDataDir` has made it before.
    super({ directory: options.dataDir, configstore: NO_FILES });
    this.#options = options;
    this.extensions = ['creation', 'creation-with-upload', 'termination'];
  }

  override async create(upload: Upload): Promise<Upload> {
    return upload;
  }

  override async getUpload(uploadId: string): Promise<Upload> {
    const record = isUploadId(uploadId) ? await this.#options.records.find(uploadId) : undefined;
    if (record === undefined) throw ERRORS.FILE_NOT_FOUND;
    return new Upload({
      id: record.uploadId,
      size: record.sizeBytes,
      offset: record.offsetBytes,
      ...(record.metadata === null ? {} : { metadata: record.metadata }),
      creation_date: record.createdAt.toISOString(),
    });
  }

  /** @returns the durable offset. The upload's lock must be held. */
  override write(pieces: Pieces, uploadId: string, offsetBytes: number): Promise<number> {
    const writing = this.#write(pieces, uploadId, offsetBytes).finally(() => this.#active.delete(writing));
    this.#active.add(writing);
    return writing;
  }

  /** Resolves when no write is under way; for a stop that loses nothing. */
  async drained(): Promise<void> {
    await Promise.allSettled(this.#active);
  }

  async #write(pieces: Pieces, uploadId: string, offsetBytes: number): Promise<number> {
    const { dataDir, records, assertLocked } = this.#options;
    const writer = this.#writer;
    await this.#takeOver(uploadId, offsetBytes);
    let recordedBytes = offsetBytes;
    let isReceived = false;
    let file: FileHandle | undefined;
    try {
      file = await openForWriting(dataDir, uploadId, offsetBytes);
      return await writeDurably({
        file,
        pieces,
        offsetBytes,
        assertMayWrite: () => assertLocked(uploadId),
        onDurable: async (durableBytes) => {
          // A new file's name: after the bytes, as most file systems have written it with them.
          if (recordedBytes === 0) await syncFolder(dataDir);
          isReceived = await records.advance(uploadId, writer, recordedBytes, durableBytes);
          recordedBytes = durableBytes;
        },
      });
    } catch (error) {
      throw toIngestError(error, uploadId);
    } finally {
      await file?.close();
      // Left standing when the database is away: then the next writer takes the longer way round.
      if (!isReceived) await records.release(uploadId, writer).catch(() => {});
    }
  }

  /**
   * A writer that did not end in order may have lost its lock a moment ago, and not know it yet. It is given
   * the time after which it cannot trust its lock any more; then neither the file nor the record is its own.
   */
  async #takeOver(uploadId: string, offsetBytes: number): Promise<void> {
    const { records, assertLocked } = this.#options;
    const other = await records.claim(uploadId, this.#writer, offsetBytes);
    if (other !== undefined) {
      if (!hasEnded(other)) await delay(GRACE_MS);
      await records.claim(uploadId, this.#writer, offsetBytes, other);
    }
    await assertLocked(uploadId); // nobody else can have come in between
  }
}

type Pieces = AsyncIterable<readonly Uint8Array[]>;

/** FileStore wants a store for its own records; ours keeps none, and every method that would use it is replaced. */
const NO_FILES = {
  get: async () => undefined,
  set: async () => undefined,
  delete: async () => undefined,
};

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** What a system call said is the disk's fault, unless it was one of the way to the database. */
function toIngestError(error: unknown, uploadId: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined || isDatabaseUnavailable(error)) return error;
  return NO_ROOM.has(code)
    ? new IngestError(
        'insufficient_storage',
        `The disk is full: upload ${uploadId} can go on when there is room.`,
        {
          cause: error,
          retryAfterSeconds: 60,
        },
      )
    : new IngestError(
        'storage_fault',
        `The disk failed (${code}) while upload ${uploadId} was written; try again.`,
        {
          cause: error,
          retryAfterSeconds: 10,
        },
      );
}
