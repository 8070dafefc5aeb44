import type { Database } from 'db-schema';
import type { Kysely } from 'kysely';
import { findRevision, type RevisionKey } from './find-revision.ts';

const PAGE_LINES = 500;

/** A refused line, as the API answers it. */
export interface RefusedLine {
  readonly file: string;
  readonly line: number;
  readonly byte_offset: number;
  readonly code: string;
  readonly detail: string;
  readonly excerpt: string;
}

/**
 * The lines of a revision that were refused, in the order in which they were found, a page at a time (the loader keeps
 * the first 1,000).
 *
 * @throws a 404 when there is no such revision, before the first page.
 */
export async function rejectedLines(
  db: Kysely<Database>,
  key: RevisionKey,
): Promise<AsyncGenerator<readonly RefusedLine[]>> {
  const { revision_id } = await findRevision(db, key);
  return pages(db, revision_id);
}

async function* pages(db: Kysely<Database>, revisionId: number): AsyncGenerator<readonly RefusedLine[]> {
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
