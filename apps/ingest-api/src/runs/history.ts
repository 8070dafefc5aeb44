import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { ModelName } from 'wire';
import { cut, cutError } from './summaries.ts';

interface AuditEvent {
  /** The token's name, or `loader`. */
  readonly actor: string;
  readonly action:
    | 'declare'
    | 'withdraw'
    | 'queue'
    | 'remove_upload'
    | 'create_token'
    | 'revoke_token'
    | 'set_contract'
    | 'publish'
    | 'retry'
    | 'retire'
    | 'erase'
    | 'expire'
    | 'lose_bytes'
    | 'deny'
    | 'adopt_store'
    | 'move_store'
    | 'sign_in'
    | 'sign_out';
  readonly model?: ModelName;
  readonly run?: string;
  readonly revision?: number;
  readonly detail?: Record<string, unknown>;
}

/** Records who did what, in the caller's transaction: no action happens without its record. */
export async function recordAudit(db: Kysely<Database>, event: AuditEvent): Promise<void> {
  await db
    .insertInto('ingest.audit_event')
    .values({
      actor: event.actor,
      action: event.action,
      model: event.model ?? null,
      run_key: event.run ?? null,
      revision: event.revision ?? null,
      detail: event.detail === undefined ? null : JSON.stringify(event.detail),
    })
    .execute();
}

/** The newest of each: a history may be long, but an answer may not. */
const SHOWN_REVISIONS = 50;
const SHOWN_ATTEMPTS = 50;
const SHOWN_EVENTS = 100;
const SHOWN_PUBLICATIONS = 50;
/** A longer detail is left out; `ingest.audit_event` has it. */
const LONGEST_DETAIL = 1_000;

/**
 * What happened to a run in all its revisions: every attempt to load it, every action, every publication; the
 * newest first.
 */
export async function runHistory(db: Kysely<Database>, model: ModelName, run: string) {
  const [revisions, attempts, events, publications] = await Promise.all([
    db
      .selectFrom('ingest.run_revision')
      .select(['revision', 'state', 'declared_at as declaredAt', 'queued_at as queuedAt'])
      .select(['loaded_at as loadedAt', 'published_at as publishedAt', 'declared_by as pushedBy'])
      .select(['row_count as rows', cutError(sql.ref('error')).as('error')])
      .where('model', '=', model)
      .where('run_key', '=', run)
      .orderBy('revision', 'desc')
      .limit(SHOWN_REVISIONS)
      .execute(),
    db
      .selectFrom('ingest.load_attempt as a')
      .innerJoin('ingest.run_revision as r', 'r.revision_id', 'a.revision_id')
      .select(['r.revision', 'a.attempt', 'a.worker', 'a.phase', 'a.outcome'])
      .select([cut(sql.ref('a.error')).as('error')])
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
      .select(['at', 'actor', 'action', 'revision'])
      .select(
        sql<Record<string, unknown> | null>`
          CASE WHEN length(detail::text) <= ${sql.lit(LONGEST_DETAIL)} THEN detail END`.as('detail'),
      )
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
      .limit(SHOWN_PUBLICATIONS)
      .execute(),
  ]);
  return { revisions, attempts, events, publications };
}
