import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import { SENT_BY_UPLOAD } from '../runs/run-files.ts';
import { freeBytes } from '../store/folder.ts';

export interface RoomCheck {
  /** @throws a 413 for a file that is larger than this service takes. */
  checkSize(name: string, sizeBytes: number): void;
  /** What the disk has, what of it is promised, and the largest upload that it would still take. */
  room(): Promise<DiskRoom>;
  /**
   * Looks at the disk, before a transaction begins. What it returns rejects with a 507 when the disk cannot take
   * what is still to come, the `newBytes` that the transaction has declared included.
   */
  measure(): Promise<(trx: Transaction<Database>, newBytes: number) => Promise<void>>;
}

export interface DiskRoom {
  readonly freeBytes: number;
  /** Still to come of the uploads that were declared. */
  readonly promisedBytes: number;
  /** Kept free whatever comes: INGEST_MIN_FREE_BYTES. */
  readonly keptFreeBytes: number;
  readonly largestUploadBytes: number;
}

export interface RoomCheckOptions {
  readonly db: Kysely<Database>;
  readonly dataDir: string;
  readonly maxUploadBytes: number;
  readonly minFreeBytes: number;
}

/** Says no before the first byte is sent, not after the last gigabyte. */
export function roomCheck({ db, dataDir, maxUploadBytes, minFreeBytes }: RoomCheckOptions): RoomCheck {
  return {
    async room() {
      const [free, promised] = await Promise.all([freeBytes(dataDir), outstandingBytes(db)]);
      const room = free - promised - minFreeBytes;
      return {
        freeBytes: free,
        promisedBytes: promised,
        keptFreeBytes: minFreeBytes,
        largestUploadBytes: Math.max(0, Math.min(room, maxUploadBytes)),
      };
    },
    checkSize(name, sizeBytes) {
      if (sizeBytes <= maxUploadBytes) return;
      throw new IngestError(
        'too_large',
        `File "${name}" has ${sizeBytes} bytes; this service takes at most ${maxUploadBytes} a file. Split it, or have INGEST_MAX_UPLOAD_BYTES raised.`,
      );
    },
    async measure() {
      const free = await freeBytes(dataDir);
      return async (trx, newBytes) => {
        if (newBytes === 0) return;
        const left = free - (await outstandingBytes(trx)) - minFreeBytes;
        if (left >= 0) return;
        const room = left + newBytes;
        throw new IngestError(
          'insufficient_storage',
          `The disk has room for ${Math.max(0, room)} more bytes, and this needs ${newBytes}. Ask the operators to make room, then run the same command again.`,
        );
      };
    },
  };
}

/** Bytes that have been promised room already: the rest of every upload of a run that still waits for its files. */
async function outstandingBytes(db: Kysely<Database>): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    SELECT coalesce(sum(u.bytes - u.offset_bytes), 0)::bigint AS bytes
    FROM ingest.upload u
    WHERE u.received_at IS NULL AND u.removed_at IS NULL
      AND EXISTS (
        SELECT FROM ingest.run_revision r WHERE r.state = 'receiving' AND ${sql.raw(SENT_BY_UPLOAD)})`.execute(
    db,
  );
  return rows[0]?.bytes ?? 0;
}
