import type { FileHandle } from 'node:fs/promises';
import { FileStore } from '@tus/file-store';
import { Upload } from '@tus/utils';
import type { UploadClaim } from './claims.ts';
import { openForWriting, syncFolder, toDiskFault } from './folder.ts';
import { writeDurably } from './write.ts';

interface DurableStoreOptions {
  readonly dataDir: string;
  /** The right to write an upload; the caller of the store holds its lock. */
  claimOf(uploadId: string): UploadClaim;
}

/**
 * The tus server's store: one file for the bytes of each upload, its record in PostgreSQL, and no byte acknowledged before
 * it is synced. Creation and removal belong to the run that an upload is part of (`runs/`), not to the store.
 */
export class DurableStore extends FileStore {
  readonly #options: DurableStoreOptions;

  constructor(options: DurableStoreOptions) {
    // FileStore would create its folder without waiting for it; `prepareDataDir` has created it already.
    super({ directory: options.dataDir, configstore: NO_FILES });
    this.#options = options;
    this.extensions = ['creation', 'creation-with-upload', 'termination', 'expiration'];
  }

  override async create(upload: Upload): Promise<Upload> {
    return upload;
  }

  /** The upload as it was when it was locked. */
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
   * The caller must hold the upload's lock. `assertStillAllowed` is called before each piece is written and before each
   * durable offset is recorded. When it rejects, the write ends, and the offset that was recorded before stays acknowledged.
   *
   * @returns the durable offset.
   */
  override async write(
    pieces: AsyncIterable<readonly Uint8Array[]>,
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
          // The name of a new file is synced after its bytes: most file systems have written it with them.
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

/** FileStore requires a store for its own records. It stays empty: every method that would use it is replaced above. */
const NO_FILES = {
  get: async () => undefined,
  set: async () => undefined,
  delete: async () => undefined,
};
