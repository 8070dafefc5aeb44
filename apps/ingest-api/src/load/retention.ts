import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect, parentOf, partitionOf } from 'db-schema';
import type pg from 'pg';
import type { Logger } from 'pino';
import { describeError, isDatabaseUnavailable, sqlStateOf } from '../errors.ts';
import { KEEP_REVISIONS_DEFAULT } from '../runs/models.ts';
import { isLockNotAvailable } from '../runs/revisions.ts';
import { type MovedRevision, queryOf, transition } from '../runs/transitions.ts';

interface RetentionContext {
  readonly connection: ConnectOptions;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** See `hide`. */
  readonly waitMs: number;
}

/** Sweeps every `everyMs` until the signal is aborted. Every loader runs it; one at a time sweeps. */
export async function runRetention(context: RetentionContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  while (!signal.aborted) {
    await sweep(context).catch((error: unknown) => {
      if (!signal.aborted) log.warn({ err: describeError(error) }, 'old rows could not be dropped');
    });
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: the loader stops
  }
}

/** Rows whose readers stay longer are left to the next sweep. */
const READERS_TIMEOUT_MS = 30_000;
/** A sweep shows this often that it still works, so that it keeps its turn. */
const KEEP_ALIVE_EVERY_MS = 15_000;

/** @throws every error of PostgreSQL; the next sweep continues what this one has begun. */
async function sweep(context: RetentionContext): Promise<void> {
  const { log, waitMs } = context;
  await onConnection(context, (turn) =>
    onConnection(context, async (client) => {
      // A lock that readers cannot take, for as long as the sweep: DETACH CONCURRENTLY allows no transaction
      // around it. A loader that is frozen loses its turn.
      await turn.query(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2min'`);
      const mine = await turn.query(`SELECT FROM ingest.sweep WHERE name = 'rows' FOR UPDATE SKIP LOCKED`);
      if (mine.rows.length === 0) return;
      const keepAlive = setInterval(() => turn.query('SELECT').catch(() => {}), KEEP_ALIVE_EVERY_MS);
      try {
        report(log, await retireRevisions(client, READERS_TIMEOUT_MS, waitMs));
        for (const { model, run, revision, error } of await detachUnread(turn, client, { waitMs }))
          log.warn(
            { model, run, revision, err: describeError(error) },
            'a partition that readers do not see cannot be detached: queries of its model plan it too',
          );
      } finally {
        clearInterval(keepAlive);
      }
    }),
  );
}

function report(log: Logger, { dropped, waiting, refused }: RetirementReport): void {
  for (const { model, run, revision } of dropped)
    log.info({ model, run, revision }, 'rows dropped: the revision is past retention');
  for (const { model, run, revision } of waiting)
    log.info({ model, run, revision }, 'rows past retention are kept for now: readers use their table');
  for (const { model, run, revision, error } of refused)
    log.warn({ model, run, revision, err: describeError(error) }, 'rows past retention cannot be dropped');
}

async function onConnection(
  { connection, signal }: RetentionContext,
  work: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = await connect({ ...connection, applicationName: 'ingest-api load (retention)' }, signal);
  try {
    await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

interface RetirementReport {
  /** Their rows are deleted. */
  readonly dropped: readonly MovedRevision[];
  /** Readers still use their model's table: a later sweep drops their partition. */
  readonly waiting: readonly MovedRevision[];
  readonly refused: readonly Refused[];
}

/** PostgreSQL refuses, for example because a view depends on the partition: each sweep tries again. */
type Refused = MovedRevision & { readonly error: unknown };

/**
 * Drops the rows of withdrawn revisions, and of those beyond the last N that were loaded beside the published
 * one (`keepRevisions` of the model's contract). Held revisions stay until somebody decides, or until many
 * later ones of their model are held.
 *
 * Revisions are marked first, so that nobody publishes them; then their partitions are dropped. A kill may
 * end these statements anywhere: the next sweep continues where this one stopped.
 *
 * @param timeoutMs how long to wait for readers that use the model's table.
 */
export async function retireRevisions(
  client: pg.Client,
  timeoutMs: number,
  waitMs = 0,
): Promise<RetirementReport> {
  await client.query('BEGIN');
  await markRetired(client);
  await client.query('COMMIT');
  const dropped: MovedRevision[] = [];
  const waiting: MovedRevision[] = [];
  const refused: Refused[] = [];
  for (const partition of await partitionsWhere(client, 'r.retired_at IS NOT NULL', waitMs)) {
    // `detachUnread` hides it first, or has hidden it not long ago.
    if (waitMs > 0 && ((partition.attached && !partition.pending) || !partition.rested)) continue;
    try {
      const isDropped = await dropPartition(client, partition, timeoutMs);
      (isDropped ? dropped : waiting).push(partition);
    } catch (error) {
      if (isDatabaseUnavailable(error)) throw error;
      refused.push({ ...partition, error }); // the rows of other revisions must not be kept because of it
    }
  }
  return { dropped, waiting, refused };
}

/**
 * Held revisions of a model that wait for a decision; older ones count as decided, so that they cannot fill
 * the disk.
 */
const KEPT_HELD = 12;

/**
 * Keeps N of the revisions that were published once, to roll back to, and N of those that never were. If a
 * row is published meanwhile, UPDATE evaluates its condition again, and the row does not match any more.
 */
async function markRetired(client: pg.Client): Promise<void> {
  const decided = await transition(
    queryOf(client),
    'limit_held',
    `r.revision_id = ANY (ARRAY(
       SELECT revision_id FROM (
         SELECT revision_id, row_number() OVER (PARTITION BY model ORDER BY loaded_at DESC, revision_id DESC) AS place
         FROM ingest.run_revision WHERE state = 'held') h
       WHERE place > $1))`,
    [KEPT_HELD],
  );
  for (const { model, run, revision } of decided) {
    await client.query(
      `INSERT INTO ingest.audit_event (actor, action, model, run_key, revision, detail)
       VALUES ('loader', 'retire', $1, $2, $3, '{"was": "held"}')`,
      [model, run, revision],
    );
  }
  await client.query(
    `WITH loaded AS (
       SELECT r.revision_id, r.state, coalesce((m.contract->>'keepRevisions')::int, $1) AS keep,
              row_number() OVER (
                PARTITION BY r.model, r.state, r.published_at IS NULL
                ORDER BY coalesce(r.published_at, r.loaded_at) DESC, r.revision_id DESC) AS place
       FROM ingest.run_revision r JOIN ingest.model m ON m.name = r.model
       WHERE r.state IN ('superseded', 'cancelled') AND r.row_count IS NOT NULL AND r.retired_at IS NULL),
     retired AS (
       UPDATE ingest.run_revision SET retired_at = now()
       WHERE revision_id IN (SELECT revision_id FROM loaded WHERE state = 'cancelled' OR place > keep)
         AND state IN ('superseded', 'cancelled') AND retired_at IS NULL
       RETURNING model, run_key, revision)
     INSERT INTO ingest.audit_event (actor, action, model, run_key, revision)
     SELECT 'loader', 'retire', model, run_key, revision FROM retired`,
    [KEEP_REVISIONS_DEFAULT],
  );
}

interface Partition extends MovedRevision {
  readonly attached: boolean;
  /** An earlier sweep has begun to detach it. */
  readonly pending: boolean;
  /** It was hidden at least `waitMs` ago, or never: nobody reads it. */
  readonly rested: boolean;
}

/** Pending ones first: a table can have one of them at a time. */
async function partitionsWhere(client: pg.Client, condition: string, waitMs = 0): Promise<Partition[]> {
  const { rows } = await client.query<Partition>(
    `SELECT r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision,
            i.inhrelid IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending,
            coalesce(r.hidden_at <= now() - interval '${waitMs} ms', true) AS rested
     FROM ingest.run_revision r
     JOIN pg_class c ON c.relname = r.model || '$' || r.revision_id AND c.relkind = 'r'
       AND c.relnamespace = 'run_data'::regnamespace
     LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
     WHERE ${condition}
     ORDER BY pending DESC, r.revision_id`,
  );
  return rows;
}

/** PostgreSQL's answer to DETACH while another partition of the table has a pending one. */
const NOT_IN_PREREQUISITE_STATE = '55000';

/** @returns false when readers used the table for too long. */
async function dropPartition(client: pg.Client, partition: Partition, timeoutMs: number): Promise<boolean> {
  return (
    (await detach(client, partition, timeoutMs)) &&
    (await listHistory(client, partition.model, timeoutMs)) &&
    (await unlessInUse(() =>
      client.query(`DROP TABLE ${partitionOf(partition.model, partition.revisionId)}`),
    ))
  );
}

/**
 * DETACH CONCURRENTLY waits for readers and makes none wait; plain DETACH and DROP would make all of them
 * wait. When it runs into its time-out, the partition stays marked as pending, and FINALIZE then ends it.
 * FINALIZE holds a lock that the next ATTACH needs, so it has a short time-out.
 *
 * @returns false when readers used the table for too long.
 */
async function detach(client: pg.Client, partition: Partition, timeoutMs: number): Promise<boolean> {
  const { model, revisionId, attached, pending } = partition;
  await client.query(`SET lock_timeout = ${pending ? Math.min(timeoutMs, 1_000) : timeoutMs}`);
  if (!attached) return true;
  const how = pending ? 'FINALIZE' : 'CONCURRENTLY';
  return unlessInUse(() =>
    client.query(`ALTER TABLE ${parentOf(model)} DETACH PARTITION ${partitionOf(model, revisionId)} ${how}`),
  );
}

const HISTORY_TIMEOUT_MS = 500;

/**
 * Makes the view of the model's history read what is kept now. New readers of the history wait for it, so it has a short
 * time-out.
 *
 * @returns false when readers of the history used the view for too long.
 */
async function listHistory(client: pg.Client, model: string, timeoutMs: number): Promise<boolean> {
  await client.query(`SET lock_timeout = ${Math.min(timeoutMs, HISTORY_TIMEOUT_MS)}`);
  const isListed = await unlessInUse(() => client.query('SELECT ingest.list_history($1)', [model]));
  await client.query(`SET lock_timeout = ${timeoutMs}`);
  return isListed;
}

async function unlessInUse(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (isLockNotAvailable(error) || sqlStateOf(error) === NOT_IN_PREREQUISITE_STATE) return false;
    throw error;
  }
}

/** How long the run before stays attached, for transactions whose snapshot is older than the last publication. */
const KEEP_PREVIOUS_MS = 60 * 60_000;

/** Attached, and neither the run that readers see nor the one that they saw until a moment ago. */
function isUnread(keepPreviousMs: number, waitMs: number): string {
  return `${waitMs > 0 ? 'true' : 'r.retired_at IS NULL'} AND i.inhrelid IS NOT NULL AND NOT EXISTS (
    SELECT FROM (
      SELECT p.revision_id, row_number() OVER later AS place, lag(max(p.published_at)) OVER later AS replaced_at
      FROM ingest.publication p WHERE p.model = r.model
      GROUP BY p.revision_id WINDOW later AS (ORDER BY max(p.publication_id) DESC)) shown
    WHERE shown.revision_id = r.revision_id
      AND (place = 1 OR place = 2 AND replaced_at > now() - interval '${keepPreviousMs} ms'))`;
}

/**
 * Detaches what readers do not see any more, so that a query plans, locks and estimates one partition of a model, however
 * many its contract keeps. A rollback attaches its partition again (`ingest.attach_revision`). With `waitMs` it first hides a
 * partition, of a retired revision too, and detaches it that long afterwards.
 *
 * Nobody may publish the revision between the question whether it is unread and its detachment: `turn`, a
 * connection within a transaction, locks the model's row until other sessions see the partition as detached.
 * It does not wait for readers with this lock: they are waited for afterwards.
 */
export async function detachUnread(
  turn: pg.Client,
  client: pg.Client,
  { timeoutMs = READERS_TIMEOUT_MS, keepPreviousMs = KEEP_PREVIOUS_MS, waitMs = 0 } = {},
): Promise<readonly Refused[]> {
  const busy = new Map<string, boolean>();
  const refused: Refused[] = [];
  for (const partition of await partitionsWhere(client, isUnread(keepPreviousMs, waitMs), waitMs)) {
    const { model, revisionId, pending } = partition;
    if (pending) {
      if (partition.rested) await detach(client, partition, timeoutMs);
      else busy.set(model, true); // one at a time
      continue;
    }
    // A detachment that waits for a reader cannot be taken back, and a rollback to it would have to wait too.
    if (!busy.has(model)) busy.set(model, await isReadForLong(client, model));
    if (busy.get(model) === true || !(await listHistory(client, model, timeoutMs))) continue;
    await turn.query(`SAVEPOINT model; SET LOCAL idle_in_transaction_session_timeout = '10s'`);
    const stillUnread = `${isUnread(keepPreviousMs, waitMs)} AND r.revision_id = ${revisionId}`;
    const mayDetach =
      (await lockModelRow(turn, model)) && (await partitionsWhere(turn, stillUnread)).length > 0;
    const detaching = mayDetach
      ? (waitMs > 0 ? hide(turn, client, partition) : detach(client, partition, timeoutMs)).catch(
          (error: unknown) => {
            if (isDatabaseUnavailable(error)) throw error;
            refused.push({ ...partition, error });
          },
        )
      : Promise.resolve();
    if (waitMs > 0) {
      await detaching;
      busy.set(model, true);
    } else await untilPending(turn, partition, detaching);
    await turn.query('ROLLBACK TO SAVEPOINT model; RELEASE SAVEPOINT model'); // releases the row's lock
    await detaching;
  }
  return refused;
}

const HIDE_TIMEOUT_MS = 500;

/**
 * Begins to detach a partition, so that new plans do not contain it, and goes no further. The rest, like DROP, takes a lock that a
 * hot standby takes too: there it cancels the queries that began before, after max_standby_streaming_delay. So the rest waits until
 * such queries have ended (`waitMs`). DETACH does not get to that lock while `turn` uses the table.
 */
async function hide(turn: pg.Client, client: pg.Client, partition: Partition): Promise<void> {
  await turn.query(`LOCK TABLE ${parentOf(partition.model)} IN ACCESS SHARE MODE`);
  await unlessInUse(() =>
    client.query('UPDATE ingest.run_revision SET hidden_at = clock_timestamp() WHERE revision_id = $1', [
      partition.revisionId,
    ]),
  );
  await detach(client, partition, HIDE_TIMEOUT_MS);
}

/** @returns false when a load or an operator publishes a run of the model at this moment. */
async function lockModelRow(turn: pg.Client, model: string): Promise<boolean> {
  const { rows } = await turn.query(
    'SELECT FROM ingest.model WHERE name = $1 FOR NO KEY UPDATE SKIP LOCKED',
    [model],
  );
  return rows.length > 0;
}

const LOOK_AGAIN_MS = 5;

/** Until new plans of other sessions do not contain the partition any more, or `detaching` has ended. */
async function untilPending(
  turn: pg.Client,
  { revisionId }: Partition,
  detaching: Promise<unknown>,
): Promise<void> {
  let hasEnded = false;
  const end = () => {
    hasEnded = true;
  };
  detaching.then(end, end);
  await Promise.resolve();
  while (!hasEnded) {
    const [found] = await partitionsWhere(turn, `r.revision_id = ${revisionId}`);
    if (found === undefined || !found.attached || found.pending) return;
    await delay(LOOK_AGAIN_MS);
  }
}

const LONG_READ_MS = 1_000;

/** Whether a transaction uses the model's table for more than a second. */
async function isReadForLong(client: pg.Client, model: string): Promise<boolean> {
  const users = async () => {
    const { rows } = await client.query<{ id: string }>(
      `SELECT virtualtransaction AS id FROM pg_locks
       WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND relation = to_regclass($1) AND pid <> pg_backend_pid()`,
      [`run_data.${model}`],
    );
    return rows.map(({ id }) => id);
  };
  const before = await users();
  if (before.length === 0) return false;
  await delay(LONG_READ_MS);
  const after = new Set(await users());
  return before.some((id) => after.has(id));
}
