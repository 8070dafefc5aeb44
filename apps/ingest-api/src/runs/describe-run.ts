import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { isLoading as hasLiveLoad } from './live-loads.ts';
import { comparedWith, profileView } from './loaded-revision.ts';
import { countFiles, fileCursor, keepsFiles, listRunFiles } from './run-files.ts';
import { mayDo, type RunState } from './states.ts';

/** The newest revision of a run, as the API answers it. */
export type RunView = NonNullable<Awaited<ReturnType<typeof describeRun>>>;

/** Of the files that need bytes as many are in the answer; the others are asked for page by page. */
const MISSING_FILES_SHOWN = 100;
const REJECTS_SHOWN = 10;

/** Resolves to undefined when no such run was ever declared. */
export async function describeRun(db: Kysely<Database>, model: ModelName, run: string) {
  const revision = await db
    .selectFrom('ingest.run_revision')
    .selectAll()
    .select(hasLiveLoad(sql.ref('revision_id')).as('is_loading'))
    .where('model', '=', model)
    .where('run_key', '=', run)
    .orderBy('revision', 'desc')
    .limit(1)
    .executeTakeFirst();
  if (revision === undefined) return undefined;
  const [counts, missing, load, rejects, shown, previous, keepsFiles] = await Promise.all([
    countFiles(db, revision),
    revision.state === 'receiving' ? missingFiles(db, revision.revision_id) : NOTHING_MISSING,
    lastLoadOf(db, revision.revision_id),
    firstRejectsOf(db, revision.revision_id),
    shownRun(db, model),
    comparedWith(db, revision.compared_with),
    hasAllFiles(db, revision.revision_id),
  ]);
  // A load that broke off says so a moment before its transaction is over.
  const isLoading = revision.is_loading && load?.outcome == null;
  const state: RunState = revision.state === 'queued' && isLoading ? 'loading' : revision.state;
  return {
    model,
    run,
    revision: revision.revision,
    state,
    as_of: revision.as_of,
    as_of_from: revision.as_of_from,
    shown,
    declaredAt: revision.declared_at,
    queuedAt: revision.queued_at,
    loadedAt: revision.loaded_at,
    publishedAt: revision.published_at,
    publishedRevision: shown?.run === run ? shown.revision : null,
    pushedBy: revision.declared_by,
    source: revision.source,
    rows: revision.row_count,
    ...counts,
    load,
    error: revision.error === null ? null : { ...revision.error, detail: shorten(revision.error.detail) },
    rejects: { total: revision.rejects?.total ?? 0, byCode: revision.rejects?.byCode ?? {}, first: rejects },
    gates: revision.gates,
    profile: profileView(revision.profile),
    previous,
    mayDo: mayDo(state, { keepsRows: revision.retired_at === null, keepsFiles }),
    missing: { files: missing.files, nextCursor: fileCursor(revision.revision, missing) },
  };
}

const NOTHING_MISSING = { files: [], nextAfter: null };

/** Those that the sender must go on with. */
function missingFiles(db: Kysely<Database>, revisionId: number) {
  return listRunFiles(db, { revisionId, filter: 'receiving', limit: MISSING_FILES_SHOWN });
}

/** What `scores.<model>` shows now; null before the first publication. */
async function shownRun(db: Kysely<Database>, model: ModelName) {
  const row = await db
    .selectFrom('ingest.run_revision')
    .select(['run_key as run', 'revision', 'as_of', 'published_at as publishedAt'])
    .where('model', '=', model)
    .where('state', '=', 'published')
    .executeTakeFirst();
  return row ?? null;
}

/** Whether it can be loaded again without being sent again. */
async function hasAllFiles(db: Kysely<Database>, revisionId: number): Promise<boolean> {
  const { rows } = await sql<{ kept: boolean }>`SELECT ${keepsFiles(sql.lit(revisionId))} AS kept`.execute(
    db,
  );
  return rows[0]?.kept === true;
}

async function lastLoadOf(db: Kysely<Database>, revisionId: number) {
  const row = await db
    .selectFrom('ingest.load_attempt')
    .selectAll()
    .where('revision_id', '=', revisionId)
    .orderBy('attempt', 'desc')
    .limit(1)
    .executeTakeFirst();
  if (row === undefined) return null;
  return {
    attempt: row.attempt,
    worker: row.worker,
    phase: row.finished_at === null ? row.phase : null,
    keyBuild: row.finished_at === null && row.phase === 'building_key' ? row.key_build : null,
    bytes: row.bytes_done,
    rows: row.rows_done,
    startedAt: row.started_at,
    updatedAt: row.updated_at,
    finishedAt: row.finished_at,
    outcome: row.outcome,
    nextTryAt: row.next_try_at,
    lastError: row.error === null ? null : shorten(row.error),
  };
}

async function firstRejectsOf(db: Kysely<Database>, revisionId: number) {
  return db
    .selectFrom('ingest.rejected_line')
    .select(['file', 'line', 'byte_offset', 'code', 'detail', 'excerpt'])
    .where('revision_id', '=', revisionId)
    .orderBy('reject_id')
    .limit(REJECTS_SHOWN)
    .execute();
}

/** No answer grows with what a database or a file had to say. */
const LONGEST_TEXT = 4_000;

function shorten(text: string): string {
  return text.length <= LONGEST_TEXT ? text : `${text.slice(0, LONGEST_TEXT)}…`;
}
