import type { FileHandle } from 'node:fs/promises';
import { FileStore } from '@tus/file-store';
import { Upload } from '@tus/utils';
import type { UploadClaim } from './claims.ts';
import { openForWriting, syncFolder, toDiskFault } from './folder.ts';
import { writeDurably } from './write.ts';

interface DurableStoreOptions {
  readonly dataDir: string;
  /** The right to write an upload, which whoever calls the store holds. */
  claimOf(uploadId: string): UploadClaim;
}

/**
 * The tus server's store: bytes in one file an upload, records elsewhere, and nothing acknowledged that is
 * not synced. Creation and removal belong to the run that an upload is part of (`runs/`), not to the store.
 */
export class DurableStore extends FileStore {
  readonly #options: DurableStoreOptions;

  constructor(options: DurableStoreOptions) {
    // FileStore makes its folder without waiting for it: `prepareDataDir` has made it before.
    super({ directory: options.dataDir, configstore: NO_FILES });
    this.#options = options;
    this.extensions = ['creation', 'creation-with-upload', 'termination', 'expiration'];
  }

  override async create(upload: Upload): Promise<Upload> {
    return upload;
  }

  /** The upload as it was locked. */
  override async getUpload(uploadId: string): Promise<Upload> {
    const { sizeBytes, offsetBytes, createdAt } = this.#options.claimOf(uploadId).record;
    return new Upload({
      id: uploadId,
      size: sizeBytes,
      offset: offsetBytes,
      creation_date: createdAt.toISOString(),
    });
  }

  /**
   * `assertStillAllowed` is called before each piece is written and before what is durable is recorded: where it rejects,
   * the write ends, and what was recorded before stays acknowledged.
   *
   * @returns the durable offset. The upload's lock must be held.
   */
  override async write(
    pieces: Pieces,
    uploadId: string,
    offsetBytes: number,
    assertStillAllowed: () => Promise<void> = async () => {},
  ): Promise<number> {
    const { dataDir } = this.#options;
    const claim = this.#options.claimOf(uploadId);
    let isNamed = offsetBytes > 0;
    let file: FileHandle | undefined;
    try {
      await claim.assertHeld();
      file = await openForWriting(dataDir, claim.record.fileName, offsetBytes);
      return await writeDurably({
        file,
        pieces,
        offsetBytes,
        async assertMayWrite() {
          await claim.assertHeld();
          await assertStillAllowed();
        },
        onDurable: async (durableBytes) => {
          // A new file's name: after the bytes, as most file systems have written it with them.
          if (!isNamed) await syncFolder(dataDir);
          isNamed = true;
          await assertStillAllowed();
          await claim.advance(durableBytes);
        },
      });
    } catch (error) {
      throw toDiskFault(error, uploadId);
    } finally {
      await file?.close();
    }
  }
}

type Pieces = AsyncIterable<readonly Uint8Array[]>;

/** FileStore wants a store for its own records; ours keeps none, and every method that would use it is replaced. */
const NO_FILES = {
  get: async () => undefined,
  set: async () => undefined,
  delete: async () => undefined,
};

/** What the store must remember about an upload; kept in PostgreSQL, so that no record can be torn. */
export interface UploadRecord {
  readonly uploadId: string;
  /** Of its file in the folder of the uploads. */
  readonly fileName: string;
  readonly sizeBytes: number;
  /** Synced bytes. */
  readonly offsetBytes: number;
  readonly createdAt: Date;
}

/**
 * The record, for whoever claimed it, or who has it instead (null: has released it a moment ago); undefined for an
 * upload that never was, or that was removed.
 */
export type ClaimAnswer = { readonly record: UploadRecord } | { readonly writer: string | null } | undefined;

export interface UploadRecords {
  /**
   * Makes `writer` the only one whose `advance` is taken from now on, unless another one has not ended in order, and is
   * not the one that `insteadOf` names: then nothing is changed.
   */
  claim(uploadId: string, writer: string, insteadOf?: string): Promise<ClaimAnswer>;
  /**
   * Takes `writer`, which may only be frozen, out of the record: it moves no offset any more, and whoever wants the upload
   * continues it in another file. Undefined when it is not the upload's writer any more.
   */
  fence(uploadId: string, writer: string): Promise<UploadRecord | undefined>;
  /** Claims a fenced upload as it was read, with `fileName` for its file. False when somebody else was first. */
  claimFenced(fenced: UploadRecord, writer: string, fileName: string): Promise<boolean>;
  /**
   * Moves the durable offset; rejects when it is not at `fromBytes` any more, or `writer` not its writer. With the last
   * byte the upload is received, and `writer` released.
   *
   * @returns whether it is.
   */
  advance(uploadId: string, writer: string, fromBytes: number, toBytes: number): Promise<boolean>;
  /** `writer` has ended in order. */
  release(uploadId: string, writer: string): Promise<void>;
}
