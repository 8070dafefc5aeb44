import type { Database, LoadPhase, RevisionError, StoredState } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { isLoading } from './live-loads.ts';
import { isStalled } from './stalled.ts';
import { RUN_STATES, type RunAction, type RunState } from './states.ts';

/** A run in a list: its newest revision, how far it is, and which of its revisions readers see. */
export interface RunSummary {
  readonly model: string;
  readonly run: string;
  readonly revision: number;
  readonly state: RunState;
  readonly as_of: Date;
  readonly declaredAt: Date;
  readonly queuedAt: Date | null;
  readonly loadedAt: Date | null;
  readonly publishedAt: Date | null;
  /** The revision of this run that readers see now; null when they see another run. */
  readonly publishedRevision: number | null;
  readonly pushedBy: string;
  readonly rows: number | null;
  readonly files: { readonly total: number; readonly received: number; readonly stalled: number };
  readonly bytes: { readonly total: number; readonly received: number };
  readonly lastProgressAt: Date | null;
  readonly load: LoadSummary | null;
  readonly error: RevisionError | null;
  readonly mayDo: readonly RunAction[];
}

export interface LoadSummary {
  readonly attempt: number;
  readonly worker: string;
  /** null when the attempt has ended. */
  readonly phase: LoadPhase | null;
  readonly bytes: number;
  readonly rows: number;
  readonly startedAt: Date;
  readonly nextTryAt: Date | null;
  readonly lastError: string | null;
}

export interface RunFilter {
  /** null covers every model. */
  readonly models: readonly string[] | null;
  readonly states?: readonly RunState[];
  /** Only the newest so many runs of each model. */
  readonly perModel?: number;
  /** The `revisionId` that the page before ended with. */
  readonly before?: number;
  readonly limit: number;
}

export interface RunPage {
  readonly runs: readonly RunSummary[];
  /** Where the next page begins; null after the last one. */
  readonly nextBefore: number | null;
}

/** Runs by their newest revision, the one that was declared last first. */
export async function listRuns(db: Kysely<Database>, filter: RunFilter): Promise<RunPage> {
  const conditions = [sql`true`];
  if (filter.models !== null) conditions.push(sql`r.model = ANY (${[...filter.models]}::text[])`);
  if (filter.before !== undefined) conditions.push(sql`r.revision_id < ${filter.before}`);
  if (filter.states !== undefined)
    conditions.push(sql`${shownState()} = ANY (${[...filter.states]}::text[])`);
  if (filter.perModel !== undefined) conditions.push(sql`r.place <= ${filter.perModel}`);
  const rows = await summaries(db, sql.join(conditions, sql` AND `), filter.limit + 1);
  const page = rows.slice(0, filter.limit);
  return {
    runs: page.map(toSummary),
    nextBefore: rows.length > page.length ? (page.at(-1)?.revision_id ?? null) : null,
  };
}

/** What may have changed: everything on its way or published, `known` runs, and what acts after `eventId` touched. */
export async function listRunsToWatch(
  db: Kysely<Database>,
  known: readonly { readonly model: string; readonly run: string }[],
  eventId: number,
): Promise<readonly RunSummary[]> {
  const rows = await summaries(
    db,
    sql`r.state IN ('receiving', 'queued', 'published')
      OR (r.model, r.run_key) IN (
        SELECT * FROM unnest(${known.map(({ model }) => model)}::text[], ${known.map(({ run }) => run)}::text[])
        UNION
        SELECT e.model, e.run_key FROM ingest.audit_event e WHERE e.event_id > ${eventId})`,
    MOST_WATCHED,
  );
  return rows.map(toSummary);
}

const MOST_WATCHED = 2_000;

interface SummaryRow {
  readonly revision_id: number;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
  readonly state: StoredState;
  readonly shown_state: RunState;
  readonly as_of: Date;
  readonly declared_at: Date;
  readonly queued_at: Date | null;
  readonly loaded_at: Date | null;
  readonly published_at: Date | null;
  readonly published_revision: number | null;
  readonly declared_by: string;
  readonly row_count: number | null;
  readonly error: RevisionError | null;
  readonly files: number;
  readonly received_files: number;
  readonly stalled_files: number;
  readonly bytes: number;
  readonly received_bytes: number;
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

function shownState(): RawBuilder<RunState> {
  return sql<RunState>`CASE WHEN r.state = 'queued' AND ${isLoading(sql.ref('r.revision_id'))} THEN 'loading' ELSE r.state END`;
}

async function summaries(
  db: Kysely<Database>,
  condition: RawBuilder<unknown>,
  limit: number,
): Promise<readonly SummaryRow[]> {
  const { rows } = await sql<SummaryRow>`
    WITH newest AS (
      SELECT n.*, row_number() OVER (PARTITION BY n.model ORDER BY n.as_of DESC, n.revision_id DESC) AS place
      FROM (
        SELECT DISTINCT ON (model, run_key) * FROM ingest.run_revision
        ORDER BY model, run_key, revision DESC) n),
    chosen AS (
      SELECT r.*, ${shownState()} AS shown_state FROM newest r
      WHERE ${condition} ORDER BY r.revision_id DESC LIMIT ${limit})
    SELECT c.*, p.revision AS published_revision, f.*, a.attempt, a.worker, a.phase, a.bytes_done, a.rows_done,
           a.started_at, a.finished_at, a.next_try_at, a.error AS load_error
    FROM chosen c
    LEFT JOIN ingest.run_revision p ON p.model = c.model AND p.run_key = c.run_key AND p.state = 'published'
    CROSS JOIN LATERAL (
      SELECT count(*) AS files, count(u.received_at) AS received_files,
             count(*) FILTER (WHERE ${isStalled()}) AS stalled_files,
             coalesce(sum(f.bytes), 0)::bigint AS bytes,
             coalesce(sum(u.offset_bytes), 0)::bigint AS received_bytes,
             max(u.last_progress_at) AS last_progress_at
      FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
      WHERE f.revision_id = c.revision_id) f
    LEFT JOIN LATERAL (
      SELECT * FROM ingest.load_attempt a WHERE a.revision_id = c.revision_id ORDER BY a.attempt DESC LIMIT 1) a ON true
    ORDER BY c.revision_id DESC`.execute(db);
  return rows;
}

function toSummary(row: SummaryRow): RunSummary {
  return {
    model: row.model,
    run: row.run_key,
    revision: row.revision,
    state: row.shown_state,
    as_of: row.as_of,
    declaredAt: row.declared_at,
    queuedAt: row.queued_at,
    loadedAt: row.loaded_at,
    publishedAt: row.published_at,
    publishedRevision: row.published_revision,
    pushedBy: row.declared_by,
    rows: row.row_count,
    files: {
      total: row.files,
      received: row.received_files,
      stalled: row.shown_state === 'receiving' ? row.stalled_files : 0,
    },
    bytes: { total: row.bytes, received: row.received_bytes },
    lastProgressAt: row.last_progress_at,
    load:
      row.attempt === null
        ? null
        : {
            attempt: row.attempt,
            worker: row.worker,
            phase: row.finished_at === null ? row.phase : null,
            bytes: row.bytes_done,
            rows: row.rows_done,
            startedAt: row.started_at,
            nextTryAt: row.next_try_at,
            lastError: row.load_error,
          },
    error: row.error,
    mayDo: RUN_STATES[row.shown_state].mayDo,
  };
}
