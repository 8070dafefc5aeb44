import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import { SENT_BY_UPLOAD } from '../runs/files.ts';
import type { Store } from '../store/store.ts';

export interface RoomCheck {
  /** @throws a 413 for a file that is larger than `maxUploadBytes`. */
  checkSize(name: string, sizeBytes: number): void;
  room(): Promise<DiskRoom>;
  /**
   * Asks the store for its free bytes, before a transaction begins. The function that it returns rejects with
   * a 507 when it has no room for all declared bytes, including the `newBytes` that the transaction has
   * declared.
   */
  measure(): Promise<(trx: Transaction<Database>, newBytes: number) => Promise<void>>;
}

export interface DiskRoom {
  /** null for a store without such a limit. */
  readonly freeBytes: number | null;
  /** Bytes of declared uploads that have not arrived yet. */
  readonly promisedBytes: number;
  /** INGEST_MIN_FREE_BYTES. */
  readonly keptFreeBytes: number;
  readonly largestUploadBytes: number;
}

interface RoomCheckOptions {
  readonly db: Kysely<Database>;
  readonly store: Store;
  readonly maxUploadBytes: number;
  readonly minFreeBytes: number;
}

/** Refuses what does not fit when it is declared, before the first byte is sent. */
export function roomCheck({ db, store, maxUploadBytes, minFreeBytes }: RoomCheckOptions): RoomCheck {
  return {
    async room() {
      const [free, promised] = await Promise.all([store.freeBytes(), outstandingBytes(db)]);
      const room = free === null ? maxUploadBytes : free - promised - minFreeBytes;
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
        `File "${name}" has ${sizeBytes} bytes; the limit is ${maxUploadBytes} bytes per file. Split the file, or ask the operators to raise INGEST_MAX_UPLOAD_BYTES.`,
      );
    },
    async measure() {
      const free = await store.freeBytes();
      return async (trx, newBytes) => {
        if (newBytes === 0 || free === null) return;
        const left = free - (await outstandingBytes(trx)) - minFreeBytes;
        if (left >= 0) return;
        const room = left + newBytes;
        throw new IngestError(
          'insufficient_storage',
          `The disk has room for ${Math.max(0, room)} more bytes, and this request needs ${newBytes}. Ask the operators to make room, then run the same command again.`,
        );
      };
    },
  };
}

/** The missing bytes of every upload of a run that waits for its files: they have a promise of room. */
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

/** Keeps one token from filling the disk, or the database with what it declares. */
export interface TokenQuota {
  /**
   * Asked before anything of a revision is recorded. Rejects with a 507 when the token has declared too many files within
   * a day, whatever became of them.
   */
  admitRun(trx: Transaction<Database>, owner: string, files: number): Promise<void>;
  /** Rejects with a 507 when the token has changed too many contracts within a day: the audit log keeps each of them. */
  admitContract(trx: Transaction<Database>, owner: string): Promise<void>;
  /**
   * Asked when everything is recorded. Rejects with a 507 when the token has more unfinished uploads, or more bytes on the
   * disk, than its quota. Bytes that it has sent count until the file is removed, whatever became of the run; so do
   * bytes that it has declared and may send.
   */
  reserve(trx: Transaction<Database>, owner: string, newUploads: number, newBytes: number): Promise<void>;
}

interface TokenQuotaOptions {
  readonly maxDailyFiles: number;
  readonly maxOpenUploads: number;
  readonly maxTokenBytes: number;
}

/** A run counts as this many files at least: its own rows, the source that it declares, its place in every list. */
const LEAST_FILES_OF_RUN = 100;
/** Each may have 128 KiB. */
const MOST_DAILY_CONTRACTS = 1_000;

/**
 * Two declarations at the same moment may pass together and exceed the quota; the check of the disk remains.
 */
export function tokenQuota({ maxDailyFiles, maxOpenUploads, maxTokenBytes }: TokenQuotaOptions): TokenQuota {
  const exceeded = (detail: string) => new IngestError('quota_exceeded', detail, { retryAfterSeconds: 60 });
  return {
    async admitRun(trx, owner, files) {
      const before = await declaredWithinDay(trx, owner);
      const after = before + Math.max(files, LEAST_FILES_OF_RUN);
      if (after <= maxDailyFiles) return;
      throw exceeded(
        `The token "${owner}" would have declared ${after} files within 24 hours, ${after - before} of them with this request (a run counts as ${LEAST_FILES_OF_RUN} at least); its quota is ${maxDailyFiles}. Look for runs that are scored again and again, or a job that declares and withdraws them. Wait, or ask the operators to raise INGEST_MAX_DAILY_FILES.`,
      );
    },
    async admitContract(trx, owner) {
      const before = await contractsWithinDay(trx, owner);
      if (before < MOST_DAILY_CONTRACTS) return;
      throw exceeded(
        `The token "${owner}" changed ${before} contracts within 24 hours; its quota is ${MOST_DAILY_CONTRACTS}. Look for the job that changes so many; a contract that stays as it is does not count. Wait, or set it on the command line: ingest-api model set.`,
      );
    },
    async reserve(trx, owner, newUploads, newBytes) {
      const { openUploads, bytes } = await usage(trx, owner);
      if (openUploads > maxOpenUploads) {
        throw exceeded(
          `The token "${owner}" would have ${openUploads} unfinished uploads, ${newUploads} of them new; its quota is ${maxOpenUploads}. Finish or withdraw some, or ask the operators to raise INGEST_MAX_OPEN_UPLOADS.`,
        );
      }
      if (bytes > maxTokenBytes) {
        throw exceeded(
          `The token "${owner}" would have ${bytes} bytes on the disk, ${newBytes} of them new; its quota is ${maxTokenBytes}. Files of withdrawn runs are removed after an hour, those of loaded runs after INGEST_KEEP_FILES_HOURS. Wait, or ask the operators to raise INGEST_MAX_TOKEN_BYTES.`,
        );
      }
    },
  };
}

async function declaredWithinDay(trx: Transaction<Database>, owner: string): Promise<number> {
  const { rows } = await sql<{ files: number }>`
    SELECT coalesce(sum(greatest(file_count, ${sql.lit(LEAST_FILES_OF_RUN)})), 0)::bigint AS files
    FROM ingest.run_revision
    WHERE declared_by = ${owner} AND declared_at > now() - interval '1 day'`.execute(trx);
  return rows[0]?.files ?? 0;
}

async function contractsWithinDay(trx: Transaction<Database>, owner: string): Promise<number> {
  const { rows } = await sql<{ contracts: number }>`
    SELECT count(*)::bigint AS contracts FROM ingest.audit_event
    WHERE actor = ${owner} AND action = 'set_contract' AND at > now() - interval '1 day'`.execute(trx);
  return rows[0]?.contracts ?? 0;
}

/** Includes what this transaction has declared. */
async function usage(
  trx: Transaction<Database>,
  owner: string,
): Promise<{ openUploads: number; bytes: number }> {
  const { rows } = await sql<{ openUploads: number; bytes: number }>`
    SELECT count(*) FILTER (WHERE u.is_open) AS "openUploads",
           coalesce(sum(CASE WHEN u.is_open THEN u.bytes ELSE u.offset_bytes END), 0)::bigint AS bytes
    FROM (
      SELECT u.bytes, u.offset_bytes, u.received_at IS NULL AND u.removed_at IS NULL AND EXISTS (
        SELECT FROM ingest.run_revision r
        WHERE r.state = 'receiving' AND ${sql.raw(SENT_BY_UPLOAD)}) AS is_open
      FROM ingest.upload u
      WHERE u.created_by = ${owner} AND u.file_removed_at IS NULL) u`.execute(trx);
  return rows[0] ?? { openUploads: 0, bytes: 0 };
}
