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
