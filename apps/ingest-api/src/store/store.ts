/** An upload as its record in PostgreSQL has it (`runs/uploads.ts`), so that no record can be torn. */
export interface UploadRecord {
  readonly uploadId: string;
  /** In a folder. A bucket names its objects in `segments`. */
  readonly fileName: string;
  readonly sizeBytes: number;
  /** Durable bytes. */
  readonly offsetBytes: number;
  readonly createdAt: Date;
}

/** What a store must know to find the bytes of an upload. */
export interface StoredUpload {
  readonly uploadId: string;
  readonly fileName: string;
  /** The objects of a bucket, in the order of their bytes; empty for a folder. */
  readonly segments: readonly Segment[];
}

/** One object of a bucket: the bytes of an upload from `fromByte` on. */
export interface Segment {
  readonly fromByte: number;
  readonly bytes: number;
  /** Below the prefix of the store; never used for anything else. */
  readonly key: string;
  /** CRC-32 of the bytes, as an unsigned number. */
  readonly crc32: number;
}

/** Which store this is, and how new. The database has a row with the same fields (`runs/store-identity.ts`). */
export interface Marker {
  readonly storeId: string;
  /** Grows with each start and each sweep of a service: an older copy of a folder has a smaller one. */
  readonly generation: number;
}

export interface Write {
  readonly upload: UploadRecord;
  /** The position of the first byte; all bytes before it are durable. */
  readonly offsetBytes: number;
  /** Their chunks are the store's: it frees the memory of what it has written. */
  readonly pieces: AsyncIterable<readonly Uint8Array[]>;
  /** Called before each write. Rejects when the right to write is lost. */
  mayWrite(): Promise<void>;
  /**
   * Called at intervals and at the end with the durable offset; never concurrently. A bucket passes the object that it has
   * written since the last call: the offset moves, and the object gets its row, in one statement, or neither.
   */
  onDurable(offsetBytes: number, segment?: Segment): Promise<void>;
}

/**
 * Where the bytes of uploads are kept: a folder (`folder.ts`) or a bucket (`s3.ts`). No other code touches files or
 * objects. What `write` has passed to `onDurable` is durable; PostgreSQL alone says how far an upload is.
 *
 * Every method may reject with a `storage_fault` or `insufficient_storage`. A fault says nothing about what is stored: only
 * `BytesMissing` and a smaller `durableBytes` do.
 */
export interface Store {
  /** For messages and logs: a path, or `s3://bucket/prefix`. */
  readonly name: string;
  /** How much of a request's body is gathered before it is written (`gatherBody`). */
  readonly gathering: Gathering;
  /**
   * Creates the folder, or checks that the bucket exists.
   *
   * @param keptMs how long an upload may need its bytes.
   * @returns warnings for the operator: what may remove them earlier.
   */
  prepare(keptMs?: number): Promise<readonly string[]>;
  /** @returns the durable offset; `onDurable` was called with it. */
  write(write: Write): Promise<number>;
  /**
   * The bytes of an upload from its beginning, in chunks of at most 1 MiB. A chunk is the caller's until it asks for the
   * next one, which is read meanwhile.
   *
   * @throws {BytesMissing} when durable bytes are not there any more.
   */
  read(upload: StoredUpload): AsyncIterable<Buffer>;
  /** How many bytes from its beginning the store holds of an upload; 0 when it holds nothing. Asks the store itself. */
  durableBytes(upload: StoredUpload): Promise<number>;
  /**
   * Which of these uploads may have fewer bytes than their records say, for requests and for the start of a service. A
   * folder looks at each file. A bucket names none of them: no answer to a request waits for it, and a load finds the loss.
   */
  maybeShort<T extends UploadOffset>(uploads: readonly T[]): Promise<readonly T[]>;
  /** A name that no file of this upload has; undefined for a bucket, which names its objects itself. */
  newFileName(uploadId: string): string | undefined;
  /**
   * For a writer that continues an upload in place of one that may only be frozen: what the frozen one still writes must
   * not become part of the upload.
   *
   * @returns the file name under which the upload continues, with all its durable bytes.
   */
  takeOver(upload: UploadRecord): Promise<string>;
  /** Removes the file of that name, or these objects. What does not exist counts as removed. */
  discard(upload: StoredUpload): Promise<void>;
  /** Removes everything of these uploads. */
  remove(uploads: readonly StoredUpload[]): Promise<void>;
  /** Resolves when the store answers, and is still the one that this process opened. */
  probe(): Promise<void>;
  /**
   * Bytes that can still be written; null for a store without such a limit.
   *
   * @throws a `storage_fault` when the disk does not say.
   */
  freeBytes(): Promise<number | null>;
  /** Undefined for a store that was never opened. */
  readMarker(): Promise<Marker | undefined>;
  /** Atomic, and durable when it resolves. */
  writeMarker(marker: Marker): Promise<void>;
  /** From now on, a marker of another id or of a smaller generation means that another store is in this one's place. */
  expectMarker(marker: Marker): void;
  /**
   * Removes objects that no row names and that are older than a day. `named` returns those of the keys that have a row.
   *
   * @returns how many were removed.
   */
  removeOrphans(named: (keys: readonly string[]) => Promise<ReadonlySet<string>>): Promise<number>;
}

export interface Gathering {
  /** A piece is as large as this, or, when there are many bodies, as its share of `sharedBytes`. */
  readonly mostBytes: number;
  readonly leastBytes: number;
  /** For all bodies together; as many bytes again may be in the process of being written (`e2e/many-uploads.test.ts`). */
  readonly sharedBytes: number;
  /** Bytes of a slow sender are written after this time, however few they are. */
  readonly longestMs: number;
}

export type UploadOffset = Pick<UploadRecord, 'uploadId' | 'fileName' | 'offsetBytes'>;

/** The store does not hold bytes that were durable. */
export class BytesMissing extends Error {
  override readonly name = 'BytesMissing';
}

/** The folder or bucket cannot be the store of this database. Nothing was changed; an operator must act. */
export class WrongStore extends Error {
  override readonly name = 'WrongStore';
}

/** The service creates upload ids: 128 random bits in hex. */
const UPLOAD_ID = /^[0-9a-f]{32}$/;

export function isUploadId(text: string): boolean {
  return UPLOAD_ID.test(text);
}
