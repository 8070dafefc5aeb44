import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql } from 'kysely';

const SHOWN_EVENTS = 200;
const SHOWN_ATTEMPTS = 100;

/** What has happened to a run, all its revisions: every load that was tried, and every act, the newest first. */
export async function runHistory(db: Kysely<Database>, model: ModelName, run: string) {
  const [revisions, attempts, events, publications] = await Promise.all([
    db
      .selectFrom('ingest.run_revision')
      .select(['revision', 'state', 'declared_at as declaredAt', 'queued_at as queuedAt'])
      .select(['loaded_at as loadedAt', 'published_at as publishedAt', 'declared_by as pushedBy'])
      .select(['row_count as rows', 'error'])
      .where('model', '=', model)
      .where('run_key', '=', run)
      .orderBy('revision', 'desc')
      .limit(SHOWN_ATTEMPTS)
      .execute(),
    db
      .selectFrom('ingest.load_attempt as a')
      .innerJoin('ingest.run_revision as r', 'r.revision_id', 'a.revision_id')
      .select(['r.revision', 'a.attempt', 'a.worker', 'a.phase', 'a.outcome', 'a.error'])
      .select(['a.bytes_done as bytes', 'a.rows_done as rows', 'a.next_try_at as nextTryAt'])
      .select('a.phase_seconds as phaseSeconds')
      .select(['a.started_at as startedAt', 'a.finished_at as finishedAt'])
      .where('r.model', '=', model)
      .where('r.run_key', '=', run)
      .orderBy('a.attempt_id', 'desc')
      .limit(SHOWN_ATTEMPTS)
      .execute(),
    db
      .selectFrom('ingest.audit_event')
      .select(['at', 'actor', 'action', 'revision', 'detail'])
      .where('model', '=', model)
      .where('run_key', '=', run)
      .orderBy('event_id', 'desc')
      .limit(SHOWN_EVENTS)
      .execute(),
    db
      .selectFrom('ingest.publication as p')
      .innerJoin('ingest.run_revision as r', 'r.revision_id', 'p.revision_id')
      .select(['r.revision', 'p.published_at as at', 'p.published_by as by', 'p.reason'])
      .select(sql<number>`p.publication_id`.as('publicationId'))
      .where('r.model', '=', model)
      .where('r.run_key', '=', run)
      .orderBy('p.publication_id', 'desc')
      .limit(SHOWN_EVENTS)
      .execute(),
  ]);
  return { revisions, attempts, events, publications };
}
