import type { Database } from 'db-schema';
import { sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import type { GuardConfig } from '../guard-config.ts';
import { SENT_BY_UPLOAD } from '../runs/run-files.ts';

/**
 * Rejects with a 507 when a token would have more unfinished uploads, or more bytes on the disk, than it may: what it
 * has sent and nobody has removed, whatever became of the run, and what it has declared and may still send.
 */
export type UploadQuota = (
  trx: Transaction<Database>,
  owner: string,
  newUploads: number,
  newBytes: number,
) => Promise<void>;

/**
 * One token cannot take the whole disk for itself. Two declarations at the very same moment may pass together; the
 * disk's own check stays.
 */
export function uploadQuota({
  maxOpenUploads,
  maxTokenBytes,
}: Pick<GuardConfig, 'maxOpenUploads' | 'maxTokenBytes'>): UploadQuota {
  return async (trx, owner, newUploads, newBytes) => {
    const { openUploads, bytes } = await usage(trx, owner);
    if (openUploads > maxOpenUploads) {
      throw new IngestError(
        'quota_exceeded',
        `The token "${owner}" would have ${openUploads} unfinished uploads, ${newUploads} of them new; it may have ${maxOpenUploads}. Finish or withdraw some, or have INGEST_MAX_OPEN_UPLOADS raised.`,
        { retryAfterSeconds: 60 },
      );
    }
    if (bytes > maxTokenBytes) {
      throw new IngestError(
        'quota_exceeded',
        `The token "${owner}" would have ${bytes} bytes on the disk, ${newBytes} of them new; it may have ${maxTokenBytes}. Files of withdrawn runs are removed after an hour, those of loaded runs after INGEST_KEEP_FILES_HOURS; or have INGEST_MAX_TOKEN_BYTES raised.`,
        { retryAfterSeconds: 60 },
      );
    }
  };
}

/** What is declared in this very transaction is part of it. */
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
