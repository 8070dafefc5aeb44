import { IngestError } from '../errors.ts';
import type { UploadRecord, UploadRecords } from './upload-record.ts';
import type { WriterSession } from './writer-session.ts';

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
