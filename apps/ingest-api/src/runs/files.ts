import type { Database, StoredState } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { RunFile } from 'wire';
import { findRevision, type RevisionKey } from './revisions.ts';

interface FileQuery {
  readonly revisionId: number;
  readonly filter?: FileFilter | undefined;
  readonly after?: string | undefined;
  readonly limit: number;
}

/** `stalled` files are among those that are `receiving`. */
type FileFilter = 'receiving' | 'received' | 'stalled';

interface FilePage {
  readonly files: RunFile[];
  /** The last name of this page; null when no page follows. */
  readonly nextAfter: string | null;
}

/** The files of a revision by name, a page at a time: a run may have 100,000. */
export async function listRunFiles(
  db: Kysely<Database>,
  { revisionId, filter, after, limit }: FileQuery,
): Promise<FilePage> {
  const rows = await db
    .selectFrom('ingest.run_file as f')
    .innerJoin('ingest.upload as u', 'u.upload_id', 'f.upload_id')
    .select(['f.name', 'f.bytes', 'f.lines', 'u.last_progress_at as lastProgressAt'])
    .select(sql<string | null>`encode(f.sha256, 'hex')`.as('sha256'))
    .select(
      sql<RunFile['state']>`CASE WHEN u.received_at IS NULL THEN 'receiving' ELSE 'received' END`.as('state'),
    )
    // What the service still has: a file that retention has removed has to be sent again.
    .select(sql<number>`CASE WHEN u.removed_at IS NULL THEN u.offset_bytes ELSE 0 END`.as('offset'))
    .select(isStalled().as('stalled'))
    .select(sql<string>`'/v1/uploads/' || f.upload_id`.as('uploadUrl'))
    .where('f.revision_id', '=', revisionId)
    .$if(after !== undefined, (query) => query.where('f.name', '>', after ?? ''))
    .$if(filter !== undefined, (query) => query.where(isAmong(filter ?? 'receiving')))
    .orderBy('f.name')
    .limit(limit + 1)
    .execute();
  const files = rows
    .slice(0, limit)
    .map((file) => ({ ...file, lastProgressAt: file.lastProgressAt.toISOString() }));
  return { files, nextAfter: rows.length > limit ? (files.at(-1)?.name ?? null) : null };
}

function isAmong(filter: FileFilter): RawBuilder<boolean> {
  if (filter === 'stalled') return isStalled();
  return filter === 'received' ? sql`u.received_at IS NOT NULL` : sql`u.received_at IS NULL`;
}

/** The cursor of the next page. It names the revision, so that all pages of a listing are of the same one. */
export function fileCursor(revision: number, { nextAfter }: FilePage): string | null {
  return nextAfter === null ? null : `${revision}.${Buffer.from(nextAfter).toString('base64url')}`;
}

interface CountedRevision {
  readonly revision_id: number;
  readonly state: StoredState;
  readonly file_count: number;
  readonly total_bytes: number;
  readonly total_lines: number | null;
}

/**
 * How much of a revision has been received. Its files are only read while bytes may be missing; the revision
 * has the totals.
 */
export async function countFiles(db: Kysely<Database>, revision: CountedRevision) {
  const { file_count, total_bytes, total_lines } = revision;
  const counted = isComplete(revision) ? undefined : await countReceived(db, revision.revision_id);
  return {
    files: {
      total: file_count,
      received: counted?.files ?? file_count,
      stalled: revision.state === 'receiving' ? (counted?.stalled ?? 0) : 0,
    },
    bytes: { total: total_bytes, received: counted?.bytes ?? total_bytes },
    lines: total_lines,
    lastProgressAt: counted?.lastProgressAt?.toISOString() ?? null,
  };
}

function isComplete({ state }: CountedRevision): boolean {
  return state !== 'receiving' && state !== 'cancelled';
}

async function countReceived(db: Kysely<Database>, revisionId: number) {
  const { rows } = await sql<{ files: number; stalled: number; bytes: number; lastProgressAt: Date | null }>`
    SELECT count(u.received_at) AS files, count(*) FILTER (WHERE ${isStalled()}) AS stalled,
           coalesce(sum(u.offset_bytes), 0)::bigint AS bytes, max(u.last_progress_at) AS "lastProgressAt"
    FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.revision_id = ${revisionId}`.execute(db);
  return rows[0];
}

/**
 * A file counts as stalled after this long without a byte: twice the time after which the uploader cancels a
 * request and tries again.
 */
export const STALLED_AFTER_SECONDS = 120;

/** SQL: true for an upload (the row `u`) that is not finished and is stalled. */
export function isStalled(): RawBuilder<boolean> {
  return sql<boolean>`(u.received_at IS NULL
    AND u.last_progress_at < now() - ${sql.lit(STALLED_AFTER_SECONDS)} * interval '1 second')`;
}

/**
 * SQL: true when the upload `u` sends a file of the revision `r`. As an array, so that the files are found by
 * the upload: without statistics, on a new database, a join reads all files of the revision for each upload,
 * and a run may have 100,000 of both.
 */
export const SENT_BY_UPLOAD = `r.revision_id = ANY (ARRAY(
  SELECT f.revision_id FROM ingest.run_file f WHERE f.upload_id = u.upload_id))`;

/**
 * SQL: true while every file of the revision is kept, so that it can be loaded again without being sent
 * again.
 */
export function keepsFiles(revisionId: RawBuilder<unknown>): RawBuilder<boolean> {
  return sql<boolean>`NOT EXISTS (
    SELECT FROM ingest.run_file kf
    WHERE kf.revision_id = ${revisionId}
      AND (SELECT ku.removed_at IS NOT NULL FROM ingest.upload ku WHERE ku.upload_id = kf.upload_id))`;
}

/** A rejected line, as the API answers it. */
interface RejectedLine {
  readonly file: string;
  readonly line: number;
  readonly byte_offset: number;
  readonly code: string;
  readonly detail: string;
  readonly excerpt: string;
}

/**
 * The rejected lines of a revision in the order in which they were found, a page at a time (the loader keeps
 * the first 1,000).
 *
 * @throws a 404 when there is no such revision, before the first page.
 */
export async function rejectedLines(
  db: Kysely<Database>,
  key: RevisionKey,
): Promise<AsyncGenerator<readonly RejectedLine[]>> {
  const { revision_id } = await findRevision(db, key);
  return pagesOfRejects(db, revision_id);
}

const PAGE_LINES = 500;

async function* pagesOfRejects(
  db: Kysely<Database>,
  revisionId: number,
): AsyncGenerator<readonly RejectedLine[]> {
  let lastId = 0;
  for (;;) {
    const rows = await db
      .selectFrom('ingest.rejected_line')
      .select(['reject_id', 'file', 'line', 'byte_offset', 'code', 'detail', 'excerpt'])
      .where('revision_id', '=', revisionId)
      .where('reject_id', '>', lastId)
      .orderBy('reject_id')
      .limit(PAGE_LINES)
      .execute();
    const last = rows.at(-1);
    if (last === undefined) return;
    lastId = last.reject_id;
    yield rows.map(({ reject_id: _, ...line }) => line);
  }
}
