import type { Database } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { isLoading } from './live-loads.ts';
import { type RunSummary, type SummaryRow, toSummary } from './run-summary.ts';
import { isStalled } from './stalled.ts';
import type { RunState } from './states.ts';

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

/**
 * Runs that somebody should look at: failed or held, a file stalled, a load tried more than once. All that are
 * fine are left out before anything is summed up: there may be hundreds of them on their way.
 */
export async function listRunsNeedingAttention(
  db: Kysely<Database>,
  models: readonly string[] | null,
  limit: number,
): Promise<readonly RunSummary[]> {
  const isCovered = models === null ? sql`true` : sql`r.model = ANY (${[...models]}::text[])`;
  const needsAttention = sql`${isCovered} AND (
    r.state IN ('failed', 'held')
    OR (r.state = 'receiving' AND r.revision_id IN (
      SELECT f.revision_id FROM ingest.upload u JOIN ingest.run_file f USING (upload_id) WHERE ${isStalled()}))
    OR (r.state = 'queued' AND EXISTS (
      SELECT FROM ingest.load_attempt a WHERE a.revision_id = r.revision_id AND a.attempt > 1)))`;
  const rows = await summaries(db, needsAttention, limit);
  return rows.map(toSummary);
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
      WHERE ${condition} ORDER BY r.revision_id DESC LIMIT ${limit}),
    files AS ( -- in one pass for all of them: asked for run by run, each might read every upload
      SELECT c.revision_id, count(u.upload_id) AS files, count(u.received_at) AS received_files,
             count(*) FILTER (WHERE ${isStalled()}) AS stalled_files,
             coalesce(sum(f.bytes), 0)::bigint AS bytes,
             coalesce(sum(u.offset_bytes), 0)::bigint AS received_bytes,
             max(u.last_progress_at) AS last_progress_at
      FROM chosen c LEFT JOIN (ingest.run_file f JOIN ingest.upload u USING (upload_id)) USING (revision_id)
      GROUP BY c.revision_id)
    SELECT c.*, p.revision AS published_revision, f.*, a.attempt, a.worker, a.phase, a.bytes_done, a.rows_done,
           a.started_at, a.finished_at, a.next_try_at, a.error AS load_error
    FROM chosen c
    LEFT JOIN ingest.run_revision p ON p.model = c.model AND p.run_key = c.run_key AND p.state = 'published'
    JOIN files f ON f.revision_id = c.revision_id
    LEFT JOIN LATERAL (
      SELECT * FROM ingest.load_attempt a WHERE a.revision_id = c.revision_id ORDER BY a.attempt DESC LIMIT 1) a ON true
    ORDER BY c.revision_id DESC`.execute(db);
  return rows;
}
