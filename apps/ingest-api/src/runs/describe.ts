import type { Database, KeyBuild, RevisionProfile } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { ModelName, Profile, Run, RunState } from 'wire';
import { countFiles, fileCursor, keepsFiles, listRunFiles } from './files.ts';
import { cut, cutError, isLoading } from './summaries.ts';
import type { ThroughputLog } from './throughput.ts';
import { mayDo } from './transitions.ts';

/** The answer has this many of the files that need bytes; the others are requested page by page. */
const MISSING_FILES_SHOWN = 100;
const REJECTS_SHOWN = 10;
const LONGEST_TEXT = 4_000;

/** The newest revision of a run, or the given one; undefined when it was never declared. */
export async function describeRun(
  db: Kysely<Database>,
  model: ModelName,
  run: string,
  wanted?: number,
): Promise<Run | undefined> {
  const revision = await db
    .selectFrom('ingest.run_revision')
    .selectAll()
    .select(isLoading(sql.ref('revision_id')).as('is_loading'))
    .select(cutError(sql.ref('error'), LONGEST_TEXT).as('shown_error'))
    .select(untilApplied.as('applied'))
    .where('model', '=', model)
    .where('run_key', '=', run)
    .$if(wanted !== undefined, (query) => query.where('revision', '=', wanted ?? 0))
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
  // The attempt of a load that broke off ends a moment before its transaction.
  const hasLiveLoad = revision.is_loading && load?.outcome == null;
  const state: RunState = revision.state === 'queued' && hasLiveLoad ? 'loading' : revision.state;
  return {
    model,
    run,
    revision: revision.revision,
    state,
    as_of: revision.as_of.toISOString(),
    as_of_from: revision.as_of_from,
    shown,
    declaredAt: revision.declared_at.toISOString(),
    queuedAt: revision.queued_at?.toISOString() ?? null,
    loadedAt: revision.loaded_at?.toISOString() ?? null,
    publishedAt: revision.published_at?.toISOString() ?? null,
    publishedRevision: shown?.run === run ? shown.revision : null,
    pushedBy: revision.declared_by,
    source: revision.source,
    rows: revision.row_count,
    ...counts,
    load,
    error: revision.shown_error,
    rejects: { total: revision.rejects?.total ?? 0, byCode: revision.rejects?.byCode ?? {}, first: rejects },
    gates: revision.gates === null ? null : [...revision.gates],
    profile: profileView(revision.profile),
    previous,
    mayDo: mayDo(state, { keepsRows: revision.retired_at === null, keepsFiles }),
    missing: { files: missing.files, nextCursor: fileCursor(revision.revision, missing) },
  };
}

/**
 * With `synchronous_commit = remote_apply` the COMMIT of a publication waits until the standbys show it. A primary that restarts
 * meanwhile shows it without having waited. A client that reads `published` here may read the scores from a standby, so this statement
 * writes to the log, and its own COMMIT waits for all that was written before.
 */
const untilApplied = sql`CASE WHEN state = 'published' AND current_setting('synchronous_commit') = 'remote_apply'
  THEN pg_logical_emit_message(true, 'score-ingest', '') END`;

const NOTHING_MISSING = { files: [], nextAfter: null };

/** The files that the sender must continue with. */
function missingFiles(db: Kysely<Database>, revisionId: number) {
  return listRunFiles(db, { revisionId, filter: 'receiving', limit: MISSING_FILES_SHOWN });
}

/** The run that `scores.<model>` shows now; null before the first publication. */
async function shownRun(db: Kysely<Database>, model: ModelName) {
  const row = await db
    .selectFrom('ingest.run_revision')
    .select(['run_key as run', 'revision', 'as_of', 'published_at as publishedAt'])
    .where('model', '=', model)
    .where('state', '=', 'published')
    .executeTakeFirst();
  if (row === undefined || row.publishedAt === null) return null;
  return { ...row, as_of: row.as_of.toISOString(), publishedAt: row.publishedAt.toISOString() };
}

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
    .select(cut(sql.ref('error'), LONGEST_TEXT).as('shown_error'))
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
    startedAt: row.started_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    finishedAt: row.finished_at?.toISOString() ?? null,
    outcome: row.outcome,
    nextTryAt: row.next_try_at?.toISOString() ?? null,
    lastError: row.shown_error,
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

/**
 * A profile as the API answers it, without the shares that later runs are compared with: they are of no use
 * to people.
 */
function profileView(profile: RevisionProfile | null): Profile | null {
  if (profile === null) return null;
  const { binShares: _, ...view } = profile;
  return view;
}

/** The run that was published when a revision was judged, and its profile, to see what has changed since. */
async function comparedWith(db: Kysely<Database>, revisionId: number | null) {
  if (revisionId === null) return null;
  const row = await db
    .selectFrom('ingest.run_revision')
    .select(['run_key', 'revision', 'profile'])
    .where('revision_id', '=', revisionId)
    .executeTakeFirst();
  if (row === undefined) return null;
  return { run: row.run_key, revision: row.revision, profile: profileView(row.profile) };
}

/** How far the run is now; null when it is neither received nor loaded. */
export async function progressOf(
  db: Kysely<Database>,
  view: Pick<Run, 'model' | 'run' | 'revision' | 'state' | 'rows' | 'bytes' | 'lines' | 'load'>,
  throughput: ThroughputLog,
): Promise<(Run['progress'] & object) | null> {
  const { model, run, revision, state, bytes, lines, load } = view;
  if (state === 'receiving') {
    const rate = throughput.bytesPerSecond(model, run, revision, 'receivedBytes');
    return { step: 'receiving', ...pace(bytes.received, bytes.total, rate), loadEtaSeconds: null };
  }
  if (state !== 'loading' || load === null || load.phase === null) return null;
  const step = load.phase;
  if (step === 'copying') {
    const rate =
      throughput.bytesPerSecond(model, run, revision, 'loadedBytes') ??
      averageSince(load.startedAt, load.updatedAt, load.bytes);
    const copying = pace(load.bytes, bytes.total, rate);
    const keySeconds = lines === null ? null : await expectedKeySeconds(db, model, lines);
    return { step, ...copying, loadEtaSeconds: sum(copying.etaSeconds, keySeconds) };
  }
  const copied = pace(load.bytes, bytes.total, null);
  if (step !== 'building_key') return { step, ...copied, loadEtaSeconds: null };
  const etaSeconds =
    load.keyBuild === null
      ? null
      : secondsLeft(load.keyBuild, await expectedKeySeconds(db, model, load.rows));
  // The phases after the key take moments.
  return { step, ...copied, etaSeconds, loadEtaSeconds: etaSeconds };
}

function pace(doneBytes: number, totalBytes: number, rate: number | null) {
  return {
    doneBytes,
    totalBytes,
    bytesPerSecond: rate === null ? null : Math.round(rate),
    etaSeconds: rate === null || rate <= 0 ? null : Math.ceil((totalBytes - doneBytes) / rate),
  };
}

function sum(seconds: number | null, more: number | null): number | null {
  return seconds === null || more === null ? null : Math.ceil(seconds + more);
}

function averageSince(startedAt: string, updatedAt: string, bytes: number): number | null {
  const seconds = (Date.parse(updatedAt) - Date.parse(startedAt)) / 1000;
  return seconds < 1 ? null : bytes / seconds;
}

/** An earlier rate of a step is mostly chance. */
const RATE_AFTER_SECONDS = 1;

/**
 * While the index is written, the estimate comes from its own rate. Scan and sort say nothing about the rest:
 * there it comes from earlier loads of the model, until this one takes longer than they did.
 */
export function secondsLeft(build: KeyBuild, expectedSeconds: number | null): number | null {
  const { step, done, total, stepSeconds, seconds } = build;
  if (step === 'writing' && done > 0 && stepSeconds >= RATE_AFTER_SECONDS)
    return Math.ceil(((total - done) * stepSeconds) / done);
  if (expectedSeconds === null || seconds >= expectedSeconds) return null;
  return Math.ceil(expectedSeconds - seconds);
}

const COMPARED_LOADS = 5;
/**
 * The time of a sort is about proportional to its rows, from half of them to double; beyond that it is
 * unknown.
 */
const COMPARABLE_SIZE = 2;

/**
 * How long a key of `rows` rows takes, from the median of the model's last loads of that size; null without
 * any.
 */
async function expectedKeySeconds(db: Kysely<Database>, model: string, rows: number): Promise<number | null> {
  const { rows: answer } = await sql<{ secondsPerRow: number | null }>`
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds / rows_done) AS "secondsPerRow"
    FROM (
      SELECT (a.phase_seconds->>'building_key')::float8 AS seconds, a.rows_done
      FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id)
      WHERE r.model = ${model} AND a.outcome IN ('published', 'superseded', 'held')
        AND a.phase_seconds ? 'building_key'
        AND a.rows_done BETWEEN ${Math.ceil(rows / COMPARABLE_SIZE)} AND ${rows * COMPARABLE_SIZE}
        AND a.rows_done > 0
      ORDER BY a.attempt_id DESC LIMIT ${COMPARED_LOADS}) l`.execute(db);
  const perRow = answer[0]?.secondsPerRow ?? null;
  return perRow === null ? null : perRow * rows;
}
