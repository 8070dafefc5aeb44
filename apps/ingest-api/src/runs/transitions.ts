import type { Database, StoredState } from 'db-schema';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { sqlStateOf } from '../errors.ts';

/** What a caller is shown: the stored states, and `loading` for a queued revision with a live load. */
export type RunState = StoredState | 'loading';

/** What a person or a program may ask for. */
export type RunAction = 'upload' | 'withdraw' | 'retry' | 'publish';

interface StateRule {
  /** Where a revision may go from here, and who takes it there. */
  readonly moves: Partial<
    Record<RunState, 'uploader' | 'finish hook' | 'lost bytes' | 'loader' | 'operator' | 'new revision'>
  >;
  readonly mayDo: readonly RunAction[];
}

/**
 * The life of a revision, written once: code, API answers and docs/architecture.md go by this table.
 * A fault of the machinery (network, database, disk) is never a state: it is tried again.
 */
export const RUN_STATES: Readonly<Record<RunState, StateRule>> = {
  receiving: { moves: { queued: 'finish hook', cancelled: 'new revision' }, mayDo: ['upload', 'withdraw'] },
  queued: {
    moves: { loading: 'loader', receiving: 'lost bytes', cancelled: 'new revision' },
    mayDo: ['retry', 'withdraw'],
  },
  loading: {
    moves: {
      published: 'loader',
      superseded: 'loader',
      held: 'loader',
      failed: 'loader',
      receiving: 'lost bytes',
    },
    mayDo: [],
  },
  published: { moves: { superseded: 'loader' }, mayDo: [] },
  superseded: { moves: { published: 'operator', cancelled: 'operator' }, mayDo: ['publish', 'withdraw'] },
  held: {
    moves: { published: 'operator', superseded: 'loader', cancelled: 'operator' },
    mayDo: ['publish', 'withdraw'],
  },
  failed: { moves: { queued: 'operator', cancelled: 'operator' }, mayDo: ['retry', 'withdraw'] },
  cancelled: { moves: {}, mayDo: [] },
};

/** What retention has left of a revision. */
export interface Kept {
  /** Its rows; also before it is loaded. */
  readonly keepsRows: boolean;
  /** Its files. */
  readonly keepsFiles: boolean;
}

/** What may be asked for now: only what the state allows and what has what it needs. */
export function mayDo(state: RunState, { keepsRows, keepsFiles }: Kept): readonly RunAction[] {
  return RUN_STATES[state].mayDo.filter((action) => {
    if (action === 'publish') return keepsRows;
    if (action === 'retry') return state !== 'failed' || keepsFiles;
    return true;
  });
}

/** The channel that idle loaders listen on. */
export const QUEUE_CHANNEL = 'ingest_queue';

export interface QueuedRevision {
  readonly revision_id: number;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
}

/** Which revisions to look at: one, those that an upload is part of, or all that still receive. */
export type LookAt = { readonly revisionId: number } | { readonly uploadId: string } | 'all';

/**
 * Queues revisions that have all their files, and wakes the loaders. Idempotent: called after each finished
 * file, and by the sweep for what a crash left undone.
 *
 * Files are sent in the order of their names, so the last name is the one to be missing: asked for first, it
 * spares a run of 10,000 files from being read through with each file. (Not as NOT EXISTS: the planner drops
 * ORDER BY and LIMIT there, and reads every upload that there is. Not as a join: without statistics, on a new
 * database, it becomes a hash of all files, 13 ms a file at 3,000 files.)
 *
 * It must be a statement of its own, after the file's `received_at` has committed: of two files that finish at
 * once, the later one sees both.
 */
export async function queueCompleteRevisions(
  db: Kysely<Database>,
  lookAt: LookAt,
): Promise<readonly QueuedRevision[]> {
  const { rows } = await sql<QueuedRevision>`
    UPDATE ingest.run_revision r
    SET state = 'queued', queued_at = now()
    WHERE r.state = 'receiving' AND ${isLookedAt(lookAt)}
      AND (
        SELECT f.name FROM ingest.run_file f
        WHERE f.revision_id = r.revision_id
          AND NOT (SELECT received_at IS NOT NULL FROM ingest.upload u WHERE u.upload_id = f.upload_id)
        ORDER BY f.name DESC LIMIT 1) IS NULL
    RETURNING r.revision_id, r.model, r.run_key, r.revision`.execute(db);
  if (rows.length > 0) await wakeLoaders(db);
  return rows;
}

/** Any login can fill PostgreSQL's queue of notifications, by listening and never reading. */
const NOTIFY_QUEUE_FULL = '54000';

/**
 * Wakes idle loaders; without it they look every `INGEST_POLL_INTERVAL_MS`. A statement of its own, after what it
 * tells of has committed: PostgreSQL holds one lock for all that notify until their commits are on the disk, and a
 * queue that is full must not undo anything.
 */
export async function wakeLoaders(db: Kysely<Database>): Promise<void> {
  try {
    await sql`SELECT pg_notify(${QUEUE_CHANNEL}, '')`.execute(db);
  } catch (error) {
    if (sqlStateOf(error) !== NOTIFY_QUEUE_FULL) throw error;
  }
}

/** Files that finish at once would wait for each other's rows, if each looked at the runs of all of them. */
function isLookedAt(lookAt: LookAt): RawBuilder<boolean> {
  if (lookAt === 'all') return sql`true`;
  if ('revisionId' in lookAt) return sql`r.revision_id = ${lookAt.revisionId}`;
  // As an array it is asked for first; a semi-join may come after every other run has been read through.
  return sql`r.revision_id = ANY (ARRAY(
    SELECT revision_id FROM ingest.run_file WHERE upload_id = ${lookAt.uploadId}))`;
}
