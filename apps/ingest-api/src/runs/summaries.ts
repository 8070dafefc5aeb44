import type { AsOfFrom, Database, GateResult, LoadPhase, RevisionError } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Profile, RunState, RunSummary } from 'wire';
import { isStalled, keepsFiles } from './files.ts';
import { mayDo } from './transitions.ts';

interface RunFilter {
  /** null covers every model. */
  readonly models: readonly string[] | null;
  readonly states?: readonly RunState[];
  /** This many of each model, the newest ones. */
  readonly perModel?: number;
  /** The distribution of the scores of each run, too. */
  readonly profile?: boolean;
  /** The last `revisionId` of the page before. */
  readonly before?: number;
  readonly limit: number;
}

interface RunPage {
  readonly runs: readonly RunSummary[];
  /** Where the next page begins; null after the last one. */
  readonly nextBefore: number | null;
}

/** Runs by their newest revision; the one that was declared last is first. */
export async function listRuns(db: Kysely<Database>, filter: RunFilter): Promise<RunPage> {
  const chosen = withShownState(newestRuns({ ...filter, limit: filter.limit + 1 }));
  const rows = await summaries(db, chosen, filter.profile);
  const page = rows.slice(0, filter.limit);
  return {
    runs: page.map((row) => toSummary(row, filter.profile)),
    nextBefore: rows.length > page.length ? (page.at(-1)?.revision_id ?? null) : null,
  };
}

/** Runs that need a human: failed or held, with a stalled file, or with a load that was tried more than once. */
export async function listRunsNeedingAttention(
  db: Kysely<Database>,
  models: readonly string[] | null,
  limit: number,
): Promise<readonly RunSummary[]> {
  const isCovered = models === null ? sql`true` : sql`r.model = ANY (${[...models]}::text[])`;
  const rows = await summaries(
    db,
    withShownState(sql`
      SELECT revision_id FROM (
        (${newestRuns({ models, states: ['failed', 'held'], limit })})
        UNION
        SELECT r.revision_id FROM ingest.newest_revision r
        WHERE r.state = 'receiving' AND ${isCovered} AND r.revision_id IN (
          SELECT f.revision_id FROM ingest.upload u JOIN ingest.run_file f USING (upload_id)
          WHERE u.removed_at IS NULL AND ${isStalled()})
        UNION
        SELECT r.revision_id FROM ingest.newest_revision r
        WHERE r.state = 'queued' AND ${isCovered} AND EXISTS (
          SELECT FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id AND a.attempt > 1)) a
      ORDER BY revision_id DESC LIMIT ${limit}`),
  );
  return rows.map((row) => toSummary(row));
}

interface MovingPage {
  readonly runs: readonly RunSummary[];
  /** By the database's clock. */
  readonly at: Date;
  /** The revision that the next page begins after; null after the last one. */
  readonly nextAfter: number | null;
}

/** Runs that may change without a request, a page at a time: one token may declare thousands. */
export async function listMovingRuns(
  db: Kysely<Database>,
  after: number,
  limit: number,
): Promise<MovingPage> {
  const rows = await summaries(
    db,
    newestOf(sql`
      SELECT revision_id AS candidate_id, model, run_key FROM ingest.run_revision
      WHERE state IN ('receiving', 'queued') AND revision_id > ${after}
      ORDER BY revision_id LIMIT ${limit}`),
  );
  // A run may occur twice, when a loader holds an older revision of it.
  const last = Math.max(after, ...rows.map((row) => row.candidate_id ?? 0));
  return { ...pageOf(rows), nextAfter: rows.length < limit ? null : last };
}

export interface RunKey {
  readonly model: string;
  readonly run: string;
}

/** The runs with these keys; one that does not exist is left out. */
export async function listRunsByKey(
  db: Kysely<Database>,
  keys: readonly RunKey[],
): Promise<Omit<MovingPage, 'nextAfter'>> {
  const models = keys.map(({ model }) => model);
  const runs = keys.map(({ run }) => run);
  const rows = await summaries(
    db,
    newestOf(sql`SELECT NULL::integer AS candidate_id, k.*
      FROM unnest(${models}::text[], ${runs}::text[]) AS k(model, run_key)`),
  );
  return pageOf(rows);
}

function pageOf(rows: readonly SummaryRow[]): Omit<MovingPage, 'nextAfter'> {
  return { runs: rows.map((row) => toSummary(row)), at: rows[0]?.selected_at ?? new Date(0) };
}

/**
 * SQL: the ids of the newest revisions that the filter matches, the last ones first. For each model and state that the
 * filter names it reads as many rows of an index as the page has, however many runs there are.
 */
function newestRuns({ models, states, perModel, before, limit }: RunFilter): RawBuilder<unknown> {
  const storedStates = states && [
    ...new Set(states.map((state) => (state === 'loading' ? 'queued' : state))),
  ];
  const isBefore = before === undefined ? sql`true` : sql`r.revision_id < ${before}`;
  // `queued` and `loading` are stored as one state.
  const isShown =
    states !== undefined && states.includes('queued') !== states.includes('loading')
      ? sql`${shownState()} = ANY (${[...states]}::text[])`
      : sql`true`;
  if (perModel !== undefined) {
    const isWanted = storedStates === undefined ? sql`true` : sql`r.state = ANY (${storedStates}::text[])`;
    return sql`
      SELECT r.revision_id
      FROM ${models === null ? sql`ingest.model m` : sql`unnest(${[...models]}::text[]) m (name)`}
      CROSS JOIN LATERAL (
        SELECT n.revision_id, n.state FROM ingest.newest_revision n
        WHERE n.model = m.name ORDER BY n.as_of DESC, n.revision_id DESC LIMIT ${perModel}) r
      WHERE ${isWanted} AND ${isBefore} AND ${isShown}
      ORDER BY r.revision_id DESC LIMIT ${limit}`;
  }
  const sources: RawBuilder<unknown>[] = [sql`(VALUES (1)) one (n)`];
  const conditions = [isBefore, isShown];
  if (models !== null) {
    sources.push(sql`unnest(${[...models]}::text[]) m (name)`);
    conditions.push(sql`r.model = m.name`);
  }
  if (storedStates !== undefined) {
    sources.push(sql`unnest(${storedStates}::text[]) s (name)`);
    conditions.push(sql`r.state = s.name`);
  }
  return sql`
    SELECT n.revision_id
    FROM ${sql.join(sources, sql` CROSS JOIN `)}
    CROSS JOIN LATERAL (
      SELECT r.revision_id FROM ingest.newest_revision r
      WHERE ${sql.join(conditions, sql` AND `)} ORDER BY r.revision_id DESC LIMIT ${limit}) n
    ORDER BY n.revision_id DESC LIMIT ${limit}`;
}

/** The revisions with these ids. */
function withShownState(ids: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`
    SELECT r.*, NULL::integer AS candidate_id, ${shownState()} AS shown_state
    FROM (${ids}) k JOIN ingest.run_revision r USING (revision_id)`;
}

/** The newest revisions of the runs that `candidates` names. */
function newestOf(candidates: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`
    SELECT r.*, k.candidate_id, ${shownState()} AS shown_state FROM (${candidates}) k
    JOIN LATERAL (
      SELECT * FROM ingest.run_revision n WHERE n.model = k.model AND n.run_key = k.run_key
      ORDER BY n.revision DESC LIMIT 1) r ON true`;
}

function shownState(): RawBuilder<RunState> {
  return sql<RunState>`CASE WHEN r.state = 'queued' AND ${isLoading(sql.ref('r.revision_id'))} THEN 'loading' ELSE r.state END`;
}

/** A loader reports twice a second; one that has not reported for this long is frozen. */
const REPORTS_WITHIN = '2 minutes';

/**
 * SQL: true while a loader works on the revision of that id: it has an attempt that has not ended, the
 * transaction of that attempt is in progress, and the loader reports. No other login of the database can
 * pretend that, or hide it: it depends on no lock that they can take. (A restored database may have ids from
 * the future, for which `pg_xact_status` raises an error.)
 */
export function isLoading(revisionId: RawBuilder<number>): RawBuilder<boolean> {
  return sql<boolean>`EXISTS (
    SELECT FROM ingest.load_attempt l
    WHERE l.revision_id = ${revisionId} AND l.finished_at IS NULL
      AND l.updated_at > now() - ${sql.lit(REPORTS_WITHIN)}::interval
      AND CASE WHEN l.transaction_id < pg_snapshot_xmax(pg_current_snapshot())
               THEN pg_xact_status(l.transaction_id) = 'in progress' END)`;
}

/**
 * @param chosen revisions with `shown_state` and `candidate_id`. Only the files of incomplete ones are
 *   counted.
 */
async function summaries(
  db: Kysely<Database>,
  chosen: RawBuilder<unknown>,
  withProfile = false,
): Promise<readonly SummaryRow[]> {
  const { rows } = await sql<SummaryRow>`
    WITH c AS MATERIALIZED (${chosen}),
    files AS ( -- in one pass for all runs: a query per run might read every upload each time
      SELECT i.revision_id, count(u.received_at) AS received_files,
             count(*) FILTER (WHERE ${isStalled()}) AS stalled_files,
             sum(u.offset_bytes)::bigint AS received_bytes,
             max(u.last_progress_at) AS last_progress_at
      FROM (SELECT DISTINCT revision_id FROM c WHERE state IN ('receiving', 'cancelled')) i
      JOIN ingest.run_file f USING (revision_id) JOIN ingest.upload u USING (upload_id)
      GROUP BY i.revision_id)
    SELECT c.revision_id, c.candidate_id, c.model, c.run_key, c.revision, c.shown_state, c.as_of, c.declared_at,
           c.queued_at, c.loaded_at, c.published_at, c.declared_by, c.row_count, c.file_count, c.total_bytes,
           c.total_lines, ${cutError(sql.ref('c.error'))} AS error,
           CASE WHEN c.state = 'held' THEN c.gates END AS gates, now() AS selected_at,
           left(c.source->>'host', 100) AS host, left(c.source#>>'{airflow,dag_id}', 100) AS dag,
           ${withProfile ? sql`c.profile - 'binShares'` : sql`NULL::jsonb`} AS profile, c.as_of_from, c.retired_at IS NULL AS keeps_rows,
           c.state <> 'failed' OR ${keepsFiles(sql.ref('c.revision_id'))} AS keeps_files,
           CASE WHEN p.revision_id IS NOT NULL THEN json_build_object(
             'run', p.run_key, 'revision', p.revision, 'as_of', ${iso(sql.ref('p.as_of'))},
             'publishedAt', ${iso(sql.ref('p.published_at'))}) END AS shown,
           coalesce(f.received_files, c.file_count) AS received_files, coalesce(f.stalled_files, 0) AS stalled_files,
           coalesce(f.received_bytes, c.total_bytes) AS received_bytes, f.last_progress_at,
           a.attempt, a.worker, a.phase, a.bytes_done, a.rows_done, a.started_at, a.finished_at, a.next_try_at,
           ${cut(sql.ref('a.error'))} AS load_error
    FROM c
    LEFT JOIN ingest.run_revision p ON p.model = c.model AND p.state = 'published'
    LEFT JOIN files f ON f.revision_id = c.revision_id
    LEFT JOIN LATERAL (
      SELECT * FROM ingest.load_attempt a WHERE a.revision_id = c.revision_id ORDER BY a.attempt DESC LIMIT 1) a ON true
    ORDER BY c.revision_id DESC`.execute(db);
  return rows;
}

/** As JSON.stringify writes a Date. */
export function iso(column: RawBuilder<unknown>): RawBuilder<string> {
  return sql<string>`to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
}

/** In a list; a single run has room for more. */
const LONGEST_TEXT = 1_000;

/**
 * SQL: a text of this length at most, so that no answer grows with the messages of a database or the content
 * of a file.
 */
export function cut(column: RawBuilder<unknown>, longest = LONGEST_TEXT): RawBuilder<string | null> {
  const length = sql.lit(longest);
  return sql<
    string | null
  >`CASE WHEN length(${column}) > ${length} THEN left(${column}, ${length}) || '…' ELSE ${column} END`;
}

/** SQL: the error of a revision, its detail cut. */
export function cutError(
  column: RawBuilder<unknown>,
  longest = LONGEST_TEXT,
): RawBuilder<RevisionError | null> {
  const detail = cut(sql`(${column}->>'detail')`, longest);
  return sql<RevisionError | null>`jsonb_set(${column}, '{detail}', to_jsonb(${detail}))`;
}

/** As `summaries` selects it. */
interface SummaryRow {
  readonly revision_id: number;
  /** The candidate that led to this run, when a page of candidates was requested. */
  readonly candidate_id: number | null;
  readonly selected_at: Date;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
  readonly shown_state: RunState;
  readonly as_of: Date;
  readonly declared_at: Date;
  readonly queued_at: Date | null;
  readonly loaded_at: Date | null;
  readonly published_at: Date | null;
  readonly as_of_from: AsOfFrom;
  readonly shown: RunSummary['shown'];
  readonly keeps_rows: boolean;
  readonly keeps_files: boolean;
  readonly declared_by: string;
  readonly row_count: number | null;
  readonly error: RevisionError | null;
  readonly gates: readonly GateResult[] | null;
  readonly host: string | null;
  readonly dag: string | null;
  readonly profile: Profile | null;
  readonly file_count: number;
  readonly received_files: number;
  readonly stalled_files: number;
  readonly total_bytes: number;
  readonly received_bytes: number;
  readonly total_lines: number | null;
  readonly last_progress_at: Date | null;
  readonly attempt: number | null;
  readonly worker: string;
  readonly phase: LoadPhase;
  readonly bytes_done: number;
  readonly rows_done: number;
  readonly started_at: Date;
  readonly finished_at: Date | null;
  readonly next_try_at: Date | null;
  readonly load_error: string | null;
}

function toSummary(row: SummaryRow, withProfile = false): RunSummary {
  return {
    model: row.model,
    run: row.run_key,
    revision: row.revision,
    state: row.shown_state,
    as_of: row.as_of.toISOString(),
    declaredAt: row.declared_at.toISOString(),
    queuedAt: row.queued_at?.toISOString() ?? null,
    loadedAt: row.loaded_at?.toISOString() ?? null,
    publishedAt: row.published_at?.toISOString() ?? null,
    as_of_from: row.as_of_from,
    shown: row.shown,
    publishedRevision: row.shown?.run === row.run_key ? row.shown.revision : null,
    pushedBy: row.declared_by,
    rows: row.row_count,
    files: {
      total: row.file_count,
      received: row.received_files,
      stalled: row.shown_state === 'receiving' ? row.stalled_files : 0,
    },
    bytes: { total: row.total_bytes, received: row.received_bytes },
    lines: row.total_lines,
    lastProgressAt: row.last_progress_at?.toISOString() ?? null,
    load:
      row.attempt === null
        ? null
        : {
            attempt: row.attempt,
            worker: row.worker,
            phase: row.finished_at === null ? row.phase : null,
            bytes: row.bytes_done,
            rows: row.rows_done,
            startedAt: row.started_at.toISOString(),
            nextTryAt: row.next_try_at?.toISOString() ?? null,
            lastError: row.load_error,
          },
    error: row.error,
    brokenGates: row.shown_state === 'held' ? (row.gates ?? []).filter(({ broken }) => broken) : [],
    sentFrom: { host: row.host, dag: row.dag },
    ...(withProfile ? { profile: row.profile } : {}),
    mayDo: mayDo(row.shown_state, { keepsRows: row.keeps_rows, keepsFiles: row.keeps_files }),
  };
}
