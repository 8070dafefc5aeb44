/**
 * The life of a revision. `TRANSITIONS` lists every change of its state, and `transition` is the only code
 * that writes `ingest.run_revision.state`: for service and loader, for callers and operators. (Proven by
 * `transitions.test.ts`.) A fault of the machinery (network, database, disk) is never a state: the work is
 * tried again.
 */
import type { Database, StoredState } from 'db-schema';
import { CompiledQuery, type Kysely } from 'kysely';
import type { ClientBase } from 'pg';
import type { ModelName, RunAction, RunState } from 'wire';
import { sqlStateOf } from '../errors.ts';

interface Transition {
  readonly from: readonly StoredState[];
  readonly to: StoredState;
  /** The program that makes it; `caller` is whoever sends a request to the service. */
  readonly by: string;
  readonly when: string;
  /** What the statement writes besides the state. */
  readonly set?: string;
}

/**
 * While a loader works on a `queued` revision, it is shown as `loading`: its row is locked until the load's
 * COMMIT.
 */
export const TRANSITIONS = {
  queue: {
    from: ['receiving'],
    to: 'queued',
    by: 'service',
    when: 'every byte of its files has been received',
    set: 'queued_at = now()',
  },
  await_lost_bytes: {
    from: ['receiving', 'queued'],
    to: 'receiving',
    by: 'service or loader',
    when: 'the disk has lost bytes of its files',
    set: 'queued_at = NULL',
  },
  replace: {
    from: ['receiving', 'queued'],
    to: 'cancelled',
    by: 'caller',
    when: 'another content of the same run is declared, and no loader holds this one',
  },
  expire: {
    from: ['receiving'],
    to: 'cancelled',
    by: 'service',
    when: 'it has received no bytes for `INGEST_EXPIRE_UPLOADS_HOURS`',
  },
  withdraw: {
    from: ['receiving', 'queued', 'held', 'superseded', 'failed'],
    to: 'cancelled',
    by: 'caller',
    when: 'DELETE of the run or of an unfinished upload, and no loader holds it',
  },
  publish: {
    from: ['queued'],
    to: 'published',
    by: 'loader',
    when: 'it is loaded, no run with a later date is published, and no gate is broken',
    set: 'loaded_at = clock_timestamp(), published_at = clock_timestamp(), error = NULL',
  },
  hold: {
    from: ['queued'],
    to: 'held',
    by: 'loader',
    when: 'it is loaded, no run with a later date is published, and a gate is broken',
    set: 'loaded_at = clock_timestamp(), published_at = NULL, error = NULL',
  },
  supersede: {
    from: ['queued'],
    to: 'superseded',
    by: 'loader',
    when: 'it is loaded, and a run with a later date is published',
    set: 'loaded_at = clock_timestamp(), published_at = NULL, error = NULL',
  },
  fail: {
    from: ['queued'],
    to: 'failed',
    by: 'loader',
    when: 'its data is at fault: the same bytes would fail again',
    set: 'loaded_at = clock_timestamp()',
  },
  retry: {
    from: ['failed'],
    to: 'queued',
    by: 'caller',
    when: 'POST …/retry, while its files are kept',
    set: 'queued_at = now(), loaded_at = NULL, error = NULL, rejects = NULL',
  },
  publish_by_hand: {
    from: ['held', 'superseded'],
    to: 'published',
    by: 'caller',
    when: 'PUT …/current, while its rows are kept',
    set: 'published_at = clock_timestamp()',
  },
  replace_published: {
    from: ['published'],
    to: 'superseded',
    by: 'loader or caller',
    when: 'another revision of the model is published',
  },
  replace_held: {
    from: ['held'],
    to: 'superseded',
    by: 'loader',
    when: 'a later revision of the same run is loaded',
  },
  limit_held: {
    from: ['held'],
    to: 'superseded',
    by: 'loader',
    when: '12 revisions of its model that were loaded later are held',
  },
} as const satisfies Record<string, Transition>;

export type TransitionName = keyof typeof TRANSITIONS;

/**
 * One statement on whichever connection a transaction has: Kysely's in the service, a client of its own in
 * the loader.
 */
export type Query = <Row>(text: string, values: readonly unknown[]) => Promise<readonly Row[]>;

export function queryOf(connection: ClientBase | Kysely<Database>): Query {
  if ('executeQuery' in connection) {
    return async <Row>(text: string, values: readonly unknown[]) =>
      (await connection.executeQuery<Row>(CompiledQuery.raw(text, [...values]))).rows;
  }
  return async (text, values) => (await connection.query(text, [...values])).rows;
}

export interface MovedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
}

/**
 * Makes a transition for each revision `r` that matches `where` and is in a state that the transition starts
 * from.
 *
 * @param where SQL; `$1` is the first of `values`.
 * @param columns what else is written to the row; a JSON column takes text.
 * @returns the revisions that moved; none is a valid answer (`transitionOne` requires one).
 */
export async function transition(
  query: Query,
  name: TransitionName,
  where: string,
  values: readonly unknown[] = [],
  columns: Readonly<Record<string, unknown>> = {},
): Promise<readonly MovedRevision[]> {
  const { from, to, set }: Transition = TRANSITIONS[name];
  const others = [
    ...(set === undefined ? [] : [set]),
    ...Object.keys(columns).map((column, i) => `${column} = $${values.length + i + 1}`),
  ];
  return query<MovedRevision>(
    `UPDATE ingest.run_revision r SET ${[`state = '${to}'`, ...others].join(', ')}
     WHERE r.state IN (${from.map((state) => `'${state}'`).join(', ')}) AND (${where})
     RETURNING r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision`,
    [...values, ...Object.values(columns)],
  );
}

/**
 * Makes a transition of one revision, whose row the caller has locked after reading that its state allows it.
 *
 * @throws when it did not move: then the caller has read something else, and must not commit.
 */
export async function transitionOne(
  query: Query,
  name: TransitionName,
  revisionId: number,
  columns: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const moved = await transition(query, name, 'r.revision_id = $1', [revisionId], columns);
  if (moved.length === 1) return;
  const { from, to } = TRANSITIONS[name];
  throw new Error(
    `Revision ${revisionId} cannot become ${to} ("${name}"), because it is not ${from.join(' or ')} any more. This is a bug of the service: its row was to be locked.`,
  );
}

/** What retention has kept of a revision. */
interface Kept {
  /** True also before it is loaded. */
  readonly keepsRows: boolean;
  readonly keepsFiles: boolean;
}

/** The actions that will succeed now: the state allows them, and what they need is kept. */
export function mayDo(state: RunState, { keepsRows, keepsFiles }: Kept): RunAction[] {
  const actions: readonly (readonly [RunAction, boolean])[] = [
    ['upload', state === 'receiving'],
    ['retry', state === 'queued' || (startsFrom('retry', state) && keepsFiles)],
    ['publish', startsFrom('publish_by_hand', state) && keepsRows],
    ['withdraw', startsFrom('withdraw', state)],
  ];
  return actions.filter(([, isAllowed]) => isAllowed).map(([action]) => action);
}

export function startsFrom(name: TransitionName, state: RunState): boolean {
  const { from }: { readonly from: readonly RunState[] } = TRANSITIONS[name];
  return from.includes(state);
}

/** Which revisions may be complete: one, those that wait for these uploads, or all that still receive. */
type Candidates = { readonly revisionId: number } | { readonly uploadIds: readonly string[] } | 'all';

/**
 * Queues revisions that have received all their files, and wakes the loaders. Idempotent: called after files
 * have finished, and by the sweep for what a crash left undone.
 *
 * Files are sent in the order of their names, so the file with the last name is the most likely to be
 * missing: it is checked first, which spares reading through a run of 10,000 files after each of them. (Not
 * as NOT EXISTS: the planner drops ORDER BY and LIMIT there, and reads every upload of the service. Not as a
 * join: without statistics, on a new database, it becomes a hash of all files, 13 ms per file at 3,000
 * files.)
 *
 * It must be a statement of its own, after the file's `received_at` has committed: of two files that finish
 * at the same time, the later one sees both.
 */
export async function queueCompleteRevisions(
  db: Kysely<Database>,
  candidates: Candidates,
): Promise<readonly MovedRevision[]> {
  const { where, values } = candidatesSql(candidates);
  const queued = await transition(
    queryOf(db),
    'queue',
    `${where} AND (
       SELECT f.name FROM ingest.run_file f
       WHERE f.revision_id = r.revision_id
         AND NOT (SELECT received_at IS NOT NULL FROM ingest.upload u WHERE u.upload_id = f.upload_id)
       ORDER BY f.name DESC LIMIT 1) IS NULL`,
    values,
  );
  if (queued.length > 0) await wakeLoaders(db);
  return queued;
}

/**
 * Only these runs: of two questions at the same time, one would wait for the rows of the other if each looked at all runs.
 */
function candidatesSql(candidates: Candidates): { where: string; values: readonly unknown[] } {
  if (candidates === 'all') return { where: 'true', values: [] };
  if ('revisionId' in candidates) return { where: 'r.revision_id = $1', values: [candidates.revisionId] };
  // An array is evaluated first; a semi-join might read through every other run before.
  return {
    where: `r.revision_id = ANY (ARRAY(SELECT revision_id FROM ingest.run_file WHERE upload_id = ANY ($1::text[])))`,
    values: [candidates.uploadIds],
  };
}

/** The channel that idle loaders listen on. */
export const QUEUE_CHANNEL = 'ingest_queue';

/** Any login can fill PostgreSQL's queue of notifications, by listening and never reading. */
const NOTIFY_QUEUE_FULL = '54000';

/**
 * Wakes idle loaders; without it they read the queue every `INGEST_POLL_INTERVAL_MS`. A statement of its own,
 * after the queued row has committed: PostgreSQL holds one lock for all that notify until their commits are
 * on the disk, and a full queue must not undo anything.
 */
export async function wakeLoaders(db: Kysely<Database>): Promise<void> {
  await notify(db, `SELECT pg_notify($1, '')`, [QUEUE_CHANNEL]);
}

/**
 * Tells applications that LISTEN which run of a model is published now, with the line of `scores_info.models` as JSON.
 * After the publication has committed, for the same reasons: it is lost when the process ends in between.
 */
export async function announcePublication(db: Kysely<Database>, model: ModelName): Promise<void> {
  await notify(
    db,
    `SELECT pg_notify('scores_published', to_json(p)::text) FROM ingest.published_run p WHERE model = $1`,
    [model],
  );
}

async function notify(db: Kysely<Database>, statement: string, values: readonly unknown[]): Promise<void> {
  try {
    await queryOf(db)(statement, values);
  } catch (error) {
    if (sqlStateOf(error) !== NOTIFY_QUEUE_FULL) throw error;
  }
}
