import type { Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import type { GuardConfig } from '../guard-config.ts';

/** Rejects with a 507 when a token would have more unfinished uploads, or bytes still to come, than it may. */
export type UploadQuota = (
  trx: Transaction<Database>,
  owner: string,
  newUploads: number,
  newBytes: number,
) => Promise<void>;

/**
 * One token cannot promise the whole disk to itself. Counted are the uploads of runs that still wait for
 * their files; two declarations at the very same moment may pass together, and the disk's own check stays.
 */
export function uploadQuota({
  maxOpenUploads,
  maxOpenBytes,
}: Pick<GuardConfig, 'maxOpenUploads' | 'maxOpenBytes'>): UploadQuota {
  return async (trx, owner, newUploads, newBytes) => {
    const open = await openUploads(trx, owner);
    if (open.uploads + newUploads > maxOpenUploads) {
      throw new IngestError(
        'quota_exceeded',
        `The token "${owner}" has ${open.uploads} uploads unfinished and asks for ${newUploads} more; it may have ${maxOpenUploads}. Finish or withdraw some, or have INGEST_MAX_OPEN_UPLOADS raised.`,
        { retryAfterSeconds: 60 },
      );
    }
    if (open.bytes + newBytes > maxOpenBytes) {
      throw new IngestError(
        'quota_exceeded',
        `The token "${owner}" has ${open.bytes} bytes still to send and asks for ${newBytes} more; it may have ${maxOpenBytes}. Finish or withdraw some, or have INGEST_MAX_OPEN_BYTES raised.`,
        { retryAfterSeconds: 60 },
      );
    }
  };
}

async function openUploads(db: Kysely<Database>, owner: string): Promise<{ uploads: number; bytes: number }> {
  const { rows } = await sql<{ uploads: number; bytes: number }>`
    SELECT count(*) AS uploads, coalesce(sum(u.bytes - u.offset_bytes), 0)::bigint AS bytes
    FROM ingest.upload u
    WHERE u.created_by = ${owner} AND u.received_at IS NULL AND u.removed_at IS NULL
      AND EXISTS (
        SELECT FROM ingest.run_file f JOIN ingest.run_revision r USING (revision_id)
        WHERE f.upload_id = u.upload_id AND r.state = 'receiving')`.execute(db);
  return rows[0] ?? { uploads: 0, bytes: 0 };
}
