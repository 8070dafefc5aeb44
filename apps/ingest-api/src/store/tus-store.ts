import { tmpdir } from 'node:os';
import { FileStore } from '@tus/file-store';
import { Upload } from '@tus/utils';
import type { UploadClaim } from './claims.ts';
import type { Gathering, Store } from './store.ts';

interface DurableStoreOptions {
  readonly store: Store;
  /** The right to write an upload; the caller of the store holds its lock. */
  claimOf(uploadId: string): UploadClaim;
}

/**
 * The tus server's store: bytes in a folder or a bucket, records in PostgreSQL, and no byte acknowledged before it is
 * durable. Creation and removal belong to the run that an upload is part of (`runs/`), not to the store.
 */
export class DurableStore extends FileStore {
  readonly #options: DurableStoreOptions;

  constructor(options: DurableStoreOptions) {
    // FileStore creates its folder, which nothing here uses: a bucket is none, and a container may not write to its own.
    super({ directory: tmpdir(), configstore: NO_FILES });
    this.#options = options;
    this.extensions = ['creation', 'creation-with-upload', 'termination', 'expiration'];
  }

  get gathering(): Gathering {
    return this.#options.store.gathering;
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
    const claim = this.#options.claimOf(uploadId);
    return this.#options.store.write({
      upload: claim.record,
      offsetBytes,
      pieces,
      async mayWrite() {
        await claim.assertHeld();
        await assertStillAllowed();
      },
      async onDurable(durableBytes, segment) {
        await assertStillAllowed();
        await claim.advance(durableBytes, segment);
      },
    });
  }
}

/** FileStore requires a store for its own records. It stays empty: every method that would use it is replaced above. */
const NO_FILES = {
  get: async () => undefined,
  set: async () => undefined,
  delete: async () => undefined,
};
