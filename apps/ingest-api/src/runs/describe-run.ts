import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { isLoading as hasLiveLoad } from './live-loads.ts';
import { comparedWith, profileView } from './loaded-revision.ts';
import { isStalled } from './stalled.ts';
import { RUN_STATES, type RunState } from './states.ts';

/** The newest revision of a run, as the API answers it. */
export type RunView = NonNullable<Awaited<ReturnType<typeof describeRun>>>;

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
  const [files, load, rejects, publishedRevision, previous] = await Promise.all([
    filesOf(db, revision.revision_id),
    lastLoadOf(db, revision.revision_id),
    firstRejectsOf(db, revision.revision_id),
    publishedRevisionOf(db, model, run),
    comparedWith(db, revision.compared_with),
  ]);
  // A load that broke off says so a moment before its transaction, and with it the lock, is gone.
  const isLoading = revision.is_loading && load?.outcome == null;
  const state: RunState = revision.state === 'queued' && isLoading ? 'loading' : revision.state;
  return {
    model,
    run,
    revision: revision.revision,
    state,
    as_of: revision.as_of,
    declaredAt: revision.declared_at,
    queuedAt: revision.queued_at,
    loadedAt: revision.loaded_at,
    publishedAt: revision.published_at,
    publishedRevision,
    pushedBy: revision.declared_by,
    source: revision.source,
    rows: revision.row_count,
    totals: {
      files: files.length,
      bytes: sum(files.map((file) => file.bytes)),
      lines: files.some((file) => file.lines === null) ? null : sum(files.map((file) => file.lines ?? 0)),
      receivedBytes: sum(files.map((file) => file.offset)),
    },
    load,
    error: revision.error,
    rejects: { total: revision.rejects?.total ?? 0, byCode: revision.rejects?.byCode ?? {}, first: rejects },
    gates: revision.gates,
    profile: profileView(revision.profile),
    previous,
    mayDo: RUN_STATES[state].mayDo,
    files,
  };
}

/** The revision of this run that readers see; null when they see another run. */
async function publishedRevisionOf(db: Kysely<Database>, model: ModelName, run: string) {
  const row = await db
    .selectFrom('ingest.run_revision')
    .select('revision')
    .where('model', '=', model)
    .where('run_key', '=', run)
    .where('state', '=', 'published')
    .executeTakeFirst();
  return row?.revision ?? null;
}

async function filesOf(db: Kysely<Database>, revisionId: number) {
  const rows = await db
    .selectFrom('ingest.run_file as f')
    .innerJoin('ingest.upload as u', 'u.upload_id', 'f.upload_id')
    .select([
      'f.name',
      'f.bytes',
      'f.lines',
      'f.upload_id',
      'u.offset_bytes',
      'u.received_at',
      'u.last_progress_at',
    ])
    .select(sql<string | null>`encode(f.sha256, 'hex')`.as('sha256'))
    .select(isStalled().as('stalled'))
    .where('f.revision_id', '=', revisionId)
    .orderBy('f.name')
    .execute();
  return rows.map((row) => ({
    name: row.name,
    bytes: row.bytes,
    sha256: row.sha256,
    lines: row.lines,
    state: row.received_at === null ? ('receiving' as const) : ('received' as const),
    offset: row.offset_bytes,
    lastProgressAt: row.last_progress_at,
    stalled: row.stalled,
    uploadUrl: `/v1/uploads/${row.upload_id}`,
  }));
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
    lastError: row.error,
  };
}

const SHOWN_REJECTS = 10;

async function firstRejectsOf(db: Kysely<Database>, revisionId: number) {
  return db
    .selectFrom('ingest.rejected_line')
    .select(['file', 'line', 'byte_offset', 'code', 'detail', 'excerpt'])
    .where('revision_id', '=', revisionId)
    .orderBy('reject_id')
    .limit(SHOWN_REJECTS)
    .execute();
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
