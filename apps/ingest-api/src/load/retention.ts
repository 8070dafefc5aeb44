import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect, parentOf, partitionOf } from 'db-schema';
import type pg from 'pg';
import type { Client } from 'pg';
import type { Logger } from 'pino';
import { describeError, isDatabaseUnavailable, sqlStateOf } from '../errors.ts';
import { KEEP_REVISIONS_DEFAULT } from '../runs/models.ts';
import { type MovedRevision, queryOf, transition } from '../runs/transitions.ts';

/** Readers that stay longer are left to the next sweep. */
const PATIENCE_MS = 30_000;
/** How often a sweep says that it has not ended yet. */
const STAYS_EVERY_MS = 15_000;

interface RetentionContext {
  readonly connection: ConnectOptions;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Sweeps every `everyMs`, until the signal is aborted: any number of loaders may, and one at a time does. */
export async function runRetention(context: RetentionContext, everyMs: number): Promise<void> {
  const { log, signal } = context;
  while (!signal.aborted) {
    await sweepOnce(context).catch((error: unknown) => {
      if (!signal.aborted) log.warn({ err: describeError(error) }, 'old rows could not be dropped');
    });
    await delay(everyMs, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
  }
}

/** @throws whatever PostgreSQL answered; what is under way then is resumed by the next sweep. */
async function sweepOnce(context: RetentionContext): Promise<void> {
  const { log } = context;
  await onConnection(context, (turn) =>
    onConnection(context, async (client) => {
      // A lock that readers cannot take, for as long as the sweep: DETACH CONCURRENTLY allows no transaction around it.
      // A loader that is frozen loses its turn.
      await turn.query(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2min'`);
      const mine = await turn.query(`SELECT FROM ingest.sweep WHERE name = 'rows' FOR UPDATE SKIP LOCKED`);
      if (mine.rows.length === 0) return;
      const staying = setInterval(() => turn.query('SELECT').catch(() => {}), STAYS_EVERY_MS);
      const { dropped, waiting, refused } = await retireRevisions(client, PATIENCE_MS).finally(() =>
        clearInterval(staying),
      );
      for (const { model, run, revision } of dropped)
        log.info({ model, run, revision }, 'rows dropped: the revision is past retention');
      for (const { model, run, revision } of waiting)
        log.info({ model, run, revision }, 'rows past retention stay for now, as readers are in their table');
      for (const { model, run, revision, error } of refused)
        log.warn(
          { model, run, revision, err: describeError(error) },
          'rows past retention cannot be dropped',
        );
    }),
  );
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

const LOCK_NOT_AVAILABLE = '55P03';

interface RetirementReport {
  /** Their rows are gone. */
  readonly dropped: readonly MovedRevision[];
  /** Readers are still in their model's table: their partition goes in a later sweep. */
  readonly waiting: readonly MovedRevision[];
  /** PostgreSQL refuses, because somebody's view hangs on the partition, say: tried again in each sweep. */
  readonly refused: readonly (MovedRevision & { readonly error: unknown })[];
}

/**
 * Drops the rows of revisions that nobody can want any more: beyond the last N that were loaded beside the
 * published one (`keepRevisions` of the model's contract), and what was withdrawn. What is held stays until somebody
 * has decided, or newer held revisions of its model are many.
 *
 * First they are marked, so that nobody publishes them; then their partitions are dropped, in statements that a kill
 * may end anywhere: the next sweep continues where this one stopped.
 *
 * @param patienceMs how long to wait for readers that are in the model's table.
 */
export async function retireRevisions(client: Client, patienceMs: number): Promise<RetirementReport> {
  await client.query('BEGIN');
  await markRetired(client);
  await client.query('COMMIT');
  const dropped: MovedRevision[] = [];
  const waiting: MovedRevision[] = [];
  const refused: (MovedRevision & { error: unknown })[] = [];
  for (const partition of await retiredPartitions(client)) {
    try {
      const isGone = await dropPartition(client, partition, patienceMs);
      (isGone ? dropped : waiting).push(partition);
    } catch (error) {
      if (isDatabaseUnavailable(error)) throw error;
      refused.push({ ...partition, error }); // the rows of others must not stay for it
    }
  }
  return { dropped, waiting, refused };
}

/** Held revisions of a model that wait for a decision; older ones count as decided, so that they cannot fill the disk. */
const KEPT_HELD = 12;

/**
 * Of those that readers have seen N are kept to roll back to, and N of those that nobody ever published.
 * A row that is published meanwhile is looked at again by UPDATE, and does not match any more.
 */
async function markRetired(client: Client): Promise<void> {
  const decided = await transition(
    queryOf(client),
    'retire',
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

type Partition = MovedRevision & { readonly attached: boolean; readonly pending: boolean };

/** Those that an earlier sweep has begun with come first: a table can have one such at a time. */
async function retiredPartitions(client: Client): Promise<Partition[]> {
  const { rows } = await client.query<Partition>(
    `SELECT r.revision_id AS "revisionId", r.model, r.run_key AS run, r.revision,
            i.inhrelid IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending
     FROM ingest.run_revision r
     JOIN pg_class c ON c.relname = r.model || '$' || r.revision_id AND c.relkind = 'r'
       AND c.relnamespace = 'run_data'::regnamespace
     LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
     WHERE r.retired_at IS NOT NULL
     ORDER BY pending DESC, r.revision_id`,
  );
  return rows;
}

/**
 * DETACH CONCURRENTLY waits for readers and makes none wait, where plain DETACH and DROP would make all of them.
 * When it gives up the partition stays marked as about to go; FINALIZE then ends it. FINALIZE holds a lock that the
 * next ATTACH needs, so that it is given a moment only.
 *
 * @returns false when readers were there for too long.
 */
async function dropPartition(client: Client, partition: Partition, patienceMs: number): Promise<boolean> {
  const { model, revisionId, attached, pending } = partition;
  const name = partitionOf(model, revisionId);
  const detach = `ALTER TABLE ${parentOf(model)} DETACH PARTITION ${name}`;
  try {
    await client.query(`SET lock_timeout = ${pending ? Math.min(patienceMs, 1_000) : patienceMs}`);
    if (attached) await client.query(`${detach} ${pending ? 'FINALIZE' : 'CONCURRENTLY'}`);
    await client.query(`DROP TABLE ${name}`);
    return true;
  } catch (error) {
    // 55000: another partition of the table is still about to go.
    if (!['55000', LOCK_NOT_AVAILABLE].includes(sqlStateOf(error) ?? '')) throw error;
    return false;
  }
}
