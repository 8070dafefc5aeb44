import type { Database, GateResult } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { describeGate, type ModelName, type RunState } from 'wire';
import { IngestError } from '../errors.ts';
import type { Store } from '../store/store.ts';
import { recordAudit } from './history.ts';
import { lockModel } from './models.ts';
import { type FoundRevision, isLockNotAvailable, lockRevision, type RevisionKey } from './revisions.ts';
import { allows, type Principal } from './tokens.ts';
import {
  announcePublication,
  queryOf,
  startsFrom,
  transition,
  transitionOne,
  wakeLoaders,
} from './transitions.ts';
import { storedUploads } from './uploads.ts';

interface PublishRequest extends RevisionKey {
  /** Publish it although it breaks gates. */
  readonly force: boolean;
  readonly reason: string;
  readonly actor: string;
  /**
   * The publication that the caller has seen as the current one (0: none); undefined skips the comparison.
   */
  readonly expectedPublicationId?: number | undefined;
}

/**
 * Makes a loaded revision the one that readers see: one that is held, or an older one to roll back to. It
 * writes a row and moves no score. A second request for the published revision changes nothing.
 */
export async function publishByHand(db: Kysely<Database>, request: PublishRequest): Promise<void> {
  const { model, run, actor, reason, force } = request;
  const isNew = await db.transaction().execute(async (trx) => {
    const query = queryOf(trx);
    await lockModel(query, model);
    await requireCurrent(trx, model, request.expectedPublicationId);
    const target = await lockRevision(trx, request);
    if (target.state === 'published') return false;
    requireRows(target, request);
    const broken = (target.gates ?? []).filter((gate) => gate.broken);
    if (broken.length > 0 && !force) throw brokenGates(run, broken);
    await attachPartition(trx, model, target);
    const [previous] = await transition(query, 'replace_published', 'r.model = $1', [model]);
    await transitionOne(query, 'publish_by_hand', target.revision_id);
    await trx
      .insertInto('ingest.publication')
      .values({ model, revision_id: target.revision_id, published_by: actor, reason })
      .execute();
    await recordAudit(trx, {
      actor,
      action: 'publish',
      model,
      run,
      revision: target.revision,
      detail: {
        reason,
        force,
        brokenGates: broken,
        replaces: previous === undefined ? null : { run_key: previous.run, revision: previous.revision },
      },
    });
    return true;
  });
  if (isNew) await announcePublication(db, model);
}

async function requireCurrent(
  trx: Transaction<Database>,
  model: ModelName,
  expectedId: number | undefined,
): Promise<void> {
  if (expectedId === undefined) return;
  const { id } = await trx
    .selectFrom('ingest.publication')
    .select((eb) => eb.fn.coalesce(eb.fn.max('publication_id'), eb.lit(0)).as('id'))
    .where('model', '=', model)
    .executeTakeFirstOrThrow();
  if (id === expectedId) return;
  throw new IngestError(
    'precondition_failed',
    `Another run of model "${model}" was published meanwhile: the current publication is ${id}, not ${expectedId}. Read GET /v1/models/${model} and decide again.`,
  );
}

function requireRows(target: FoundRevision, { model, run }: PublishRequest): void {
  if (!startsFrom('publish_by_hand', target.state)) {
    throw new IngestError(
      'conflict',
      `Run "${run}" of model "${model}" is ${target.state} in revision ${target.revision}; only a loaded revision (held or superseded) can be published.`,
    );
  }
  if (target.retired_at === null) return;
  throw new IngestError(
    'conflict',
    `Retention has deleted the rows of revision ${target.revision} of run "${run}" of model "${model}". Withdraw it, and push the run again.`,
  );
}

function brokenGates(run: string, broken: readonly GateResult[]): IngestError {
  const gates = broken.map((gate) => describeGate(gate).sentence).join('; ');
  return new IngestError(
    'conflict',
    `Run "${run}" breaks the contract of its model: ${gates}. If the run is right, publish it with force.`,
  );
}

const ATTACH_TIMEOUT = '5s';
/** For each of the older transactions, while the model's row is locked. */
const FINALIZE_TIMEOUT = '1s';

/**
 * Readers see a partition only when it is attached. Another ATTACH, or a maintenance command, may have the
 * lock for a moment; a reader of the history that uses this revision, until its transaction ends. When
 * retention has begun to detach the partition, PostgreSQL ends that first, which waits for every older
 * snapshot in the database.
 */
async function attachPartition(
  trx: Transaction<Database>,
  model: ModelName,
  target: FoundRevision,
): Promise<void> {
  const partition = `${model}$${target.revision_id}`;
  const open = await openWhileDetaching(trx, partition);
  await sql`SAVEPOINT attach`.execute(trx);
  try {
    const timeout = open === undefined ? ATTACH_TIMEOUT : FINALIZE_TIMEOUT;
    await sql`SET LOCAL lock_timeout = ${sql.lit(timeout)}`.execute(trx);
    await sql`SELECT ingest.attach_revision(${target.revision_id})`.execute(trx);
  } catch (error) {
    if (!isLockNotAvailable(error)) throw error;
    await sql`ROLLBACK TO SAVEPOINT attach`.execute(trx);
    const users = await usersOf(trx, partition);
    const sessions = users.length > 0 || open === undefined ? users : await stillOpen(trx, open);
    const cause =
      users.length > 0
        ? `Other sessions use the rows of this run, such as readers of scores_history.${model}`
        : 'Retention is detaching the rows of this run. PostgreSQL attaches them again when the transactions that were open before have ended, whatever they use';
    const found =
      sessions.length === 0
        ? 'Another command has locked the table of this model; nothing was published. Try again in a moment.'
        : `${cause}: ${sessions.map(({ pid, who }) => `${pid} (${who})`).join(', ')}. Nothing was published. Try again when their transactions have ended, or end them as an administrator of the database: ${sessions.map(({ pid }) => `SELECT pg_terminate_backend(${pid});`).join(' ')}`;
    throw new IngestError('database_unavailable', found, { cause: error, retryAfterSeconds: 5 });
  }
}

/** The transactions of other sessions, as `pg_locks` names them; undefined unless the partition is being detached. */
async function openWhileDetaching(
  trx: Transaction<Database>,
  partition: string,
): Promise<readonly string[] | undefined> {
  const { rows } = await sql<{ open: string[] | null }>`
    SELECT (SELECT array_agg(virtualxid) FROM pg_locks
            WHERE locktype = 'virtualxid' AND granted AND pid <> pg_backend_pid()) AS open
    FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE ${isPartition(partition)} AND i.inhdetachpending`.execute(trx);
  return rows.length === 0 ? undefined : (rows[0]?.open ?? []);
}

interface Session {
  readonly pid: number;
  readonly who: string;
}

const NAMED_SESSIONS = 10;

/** Those of the transactions that are open still, and have a snapshot. */
async function stillOpen(trx: Transaction<Database>, open: readonly string[]): Promise<readonly Session[]> {
  const { rows } = await sql<Session>`
    SELECT DISTINCT a.pid, ${whoIs}
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'virtualxid' AND l.granted AND l.virtualxid = ANY (${open}::text[])
      AND a.datname = current_database() AND a.backend_xmin IS NOT NULL
    ORDER BY 1 LIMIT ${sql.lit(NAMED_SESSIONS)}`.execute(trx);
  return rows;
}

async function usersOf(trx: Transaction<Database>, partition: string): Promise<readonly Session[]> {
  const { rows } = await sql<Session>`
    SELECT DISTINCT a.pid, ${whoIs}
    FROM pg_class c
    JOIN pg_locks l ON l.locktype = 'relation' AND l.relation = c.oid AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE ${isPartition(partition)} AND a.pid <> pg_backend_pid()
    ORDER BY 1 LIMIT ${sql.lit(NAMED_SESSIONS)}`.execute(trx);
  return rows;
}

const whoIs = sql`concat_ws(', ', a.usename, nullif(a.application_name, '')) AS who`;

/** The service may not look a name up in a schema that it has no access to. */
function isPartition(name: string) {
  return sql<boolean>`c.relname = ${name} AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'run_data')`;
}

interface RetryRequest extends RevisionKey {
  readonly actor: string;
  readonly reason?: string | undefined;
}

/**
 * Loads a failed revision again from its files (the contract of its model may have changed), or makes the
 * next attempt of a queued one due now.
 */
export async function retryRun(db: Kysely<Database>, request: RetryRequest): Promise<void> {
  const { actor, model, run, reason } = request;
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    const { revision_id, revision, state } = target;
    if (startsFrom('retry', state)) {
      await requireUploads(trx, revision_id, run);
      await trx.deleteFrom('ingest.rejected_line').where('revision_id', '=', revision_id).execute();
      await transitionOne(queryOf(trx), 'retry', revision_id);
    } else if (state !== 'queued') {
      throw new IngestError(
        'conflict',
        `Run "${run}" is ${state}; only a failed or a queued run can be retried.`,
      );
    }
    await trx
      .updateTable('ingest.load_attempt')
      .set({ next_try_at: null })
      .where('revision_id', '=', revision_id)
      .execute();
    const detail = reason === undefined ? {} : { detail: { reason } };
    await recordAudit(trx, { actor, action: 'retry', model, run, revision, ...detail });
  });
  await wakeLoaders(db);
}

/** Locks the uploads, so that no sweep removes them before the transaction ends. */
async function requireUploads(trx: Transaction<Database>, revisionId: number, run: string): Promise<void> {
  const { rows } = await sql<{ removed_at: Date | null }>`
    SELECT u.removed_at FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.revision_id = ${revisionId} FOR SHARE OF u`.execute(trx);
  if (rows.every(({ removed_at }) => removed_at === null)) return;
  throw new IngestError('conflict', `The service has deleted files of run "${run}"; push the run again.`);
}

interface WithdrawRequest extends RevisionKey {
  readonly principal: Principal;
  readonly reason?: string | undefined;
}

/** Cancels a revision that is not published. The next sweeps delete its rows and files. */
export async function withdrawRun(db: Kysely<Database>, request: WithdrawRequest): Promise<void> {
  const { model, run, principal, reason } = request;
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    requireMayEnd(principal, { run, ...target });
    if (target.state === 'cancelled') return;
    if (!startsFrom('withdraw', target.state)) {
      throw new IngestError(
        'conflict',
        `Run "${run}" is ${target.state}; publish another run before you withdraw this one.`,
      );
    }
    await transitionOne(queryOf(trx), 'withdraw', target.revision_id);
    const detail = { was: target.state, ...(reason === undefined ? {} : { reason }) };
    const { revision } = target;
    await recordAudit(trx, { actor: principal.name, action: 'withdraw', model, run, revision, detail });
  });
}

/** The audit event of an upload names this many runs; each run has an event of its own besides. */
const NAMED_RUNS = 100;

/**
 * tus termination: cancels an upload that is not finished, and the runs that wait for it. A finished file
 * belongs to its run and stays.
 */
export async function withdrawUpload(
  db: Kysely<Database>,
  store: Store,
  uploadId: string,
  principal: Principal,
): Promise<void> {
  const actor = principal.name;
  const stored = await db.transaction().execute(async (trx) => {
    // First, so that no declaration can start to share it: a later one waits, and then finds it removed.
    const upload = await trx
      .updateTable('ingest.upload')
      .set({ removed_at: sql<Date>`now()` })
      .where('upload_id', '=', uploadId)
      .where('received_at', 'is', null)
      .where('removed_at', 'is', null)
      .returning(['model', 'offset_bytes', 'created_by'])
      .executeTakeFirst();
    if (upload === undefined) {
      throw new IngestError(
        'conflict',
        'The upload is finished and belongs to its run; withdraw the run instead.',
      );
    }
    const { model } = upload;
    const ended = await trx
      .selectFrom('ingest.run_revision')
      .select(['revision_id', 'run_key as run', 'revision', 'state', 'declared_by'])
      .where('state', '=', 'receiving')
      .where('revision_id', 'in', (eb) =>
        eb.selectFrom('ingest.run_file').select('revision_id').where('upload_id', '=', uploadId),
      )
      .orderBy('revision_id')
      .forNoKeyUpdate()
      .execute();
    for (const run of ended) requireMayEnd(principal, run);
    if (ended.length === 0 && upload.created_by !== actor && !allows(principal, 'operate')) {
      throw new IngestError(
        'forbidden',
        `The token "${upload.created_by}" created the upload; use that token, or one with the scope "operate".`,
      );
    }
    for (const { revision_id, run, revision, state } of ended) {
      await transitionOne(queryOf(trx), 'withdraw', revision_id);
      const detail = { was: state, uploadId };
      await recordAudit(trx, { actor, action: 'withdraw', model, run, revision, detail });
    }
    const runs = ended.slice(0, NAMED_RUNS).map(({ run, revision }) => ({ run, revision }));
    await recordAudit(trx, {
      actor,
      action: 'remove_upload',
      model,
      detail: { uploadId, offsetBytes: upload.offset_bytes, runsEnded: ended.length, runs },
    });
    return storedUploads(queryOf(trx), [uploadId]);
  });
  for (const upload of stored) await store.discard(upload);
}

/**
 * Who may end a run, by whatever route: `operate` any run; `push` only runs that the same token declared,
 * while they are being received. (A new declaration of a run also cancels what of it is not loaded. It needs
 * no such permission: to push a run is to replace it.)
 *
 * @throws a 403 that names the token that declared the run.
 */
function requireMayEnd(
  principal: Principal,
  run: { readonly run: string; readonly state: RunState; readonly declared_by: string },
): void {
  if (allows(principal, 'operate')) return;
  if (run.state === 'receiving' && run.declared_by === principal.name) return;
  throw new IngestError(
    'forbidden',
    `Run "${run.run}" is ${run.state} and was declared by "${run.declared_by}". With the scope "push", a token ends only runs that it declared itself and that are still receiving. Use a token with the scope "operate".`,
  );
}
