import type { Database, GateResult } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ModelName, RunState } from 'wire';
import { IngestError, sqlStateOf } from '../errors.ts';
import { removeUploadFile } from '../store/folder.ts';
import { recordAudit } from './history.ts';
import { lockModel } from './models.ts';
import { type FoundRevision, lockRevision, type RevisionKey } from './revisions.ts';
import { allows, type Principal } from './tokens.ts';
import { queryOf, startsFrom, transition, wakeLoaders } from './transitions.ts';

interface RetryRequest extends RevisionKey {
  readonly actor: string;
  readonly reason?: string | undefined;
}

/**
 * Loads a failed revision again from the files that are still there (its contract may have changed), or lets a
 * queued one that waits for its next try have it now.
 */
export async function retryRun(db: Kysely<Database>, request: RetryRequest): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    if (startsFrom('retry', target.state)) await queueAgain(trx, target, request);
    else if (target.state !== 'queued') {
      throw new IngestError(
        'conflict',
        `Run "${request.run}" is ${target.state}; only a failed or a queued run can be tried again.`,
      );
    }
    await trx
      .updateTable('ingest.load_attempt')
      .set({ next_try_at: null })
      .where('revision_id', '=', target.revision_id)
      .execute();
    const { actor, model, run, reason } = request;
    const detail = reason === undefined ? {} : { detail: { reason } };
    await recordAudit(trx, { actor, action: 'retry', model, run, revision: target.revision, ...detail });
  });
  await wakeLoaders(db);
}

async function queueAgain(
  trx: Transaction<Database>,
  target: FoundRevision,
  { run }: RetryRequest,
): Promise<void> {
  const { rows } = await sql<{ removed_at: Date | null }>`
    SELECT u.removed_at FROM ingest.run_file f JOIN ingest.upload u USING (upload_id)
    WHERE f.revision_id = ${target.revision_id} FOR SHARE OF u`.execute(trx);
  if (rows.some((upload) => upload.removed_at !== null)) {
    throw new IngestError('conflict', `Files of run "${run}" are gone from the service; push the run again.`);
  }
  await trx.deleteFrom('ingest.rejected_line').where('revision_id', '=', target.revision_id).execute();
  await transition(queryOf(trx), 'retry', 'r.revision_id = $1', [target.revision_id]);
}

/**
 * Who may end a run, by whatever route: `operate` any of them; `push` those that it declared itself, while they are being
 * received. (Declaring a run anew also ends what of it is not loaded. That is not asked here: to push a run is to replace it.)
 *
 * @throws a 403 that says whose it is.
 */
function requireMayEnd(
  principal: Principal,
  run: { readonly run: string; readonly state: RunState; readonly declared_by: string },
): void {
  if (allows(principal, 'operate')) return;
  if (run.state === 'receiving' && run.declared_by === principal.name) return;
  throw new IngestError(
    'forbidden',
    `Run "${run.run}" is ${run.state} and was declared by "${run.declared_by}". The scope "push" ends only runs that the same token declared and that are being received; use a token with the scope "operate".`,
  );
}

interface WithdrawRequest extends RevisionKey {
  readonly principal: Principal;
  readonly reason?: string | undefined;
}

/** Cancels a revision that is not published. Its rows and files are deleted by the next sweeps. */
export async function withdrawRun(db: Kysely<Database>, request: WithdrawRequest): Promise<void> {
  const { model, run, principal, reason } = request;
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    requireMayEnd(principal, { run, ...target });
    if (target.state === 'cancelled') return;
    if (!startsFrom('withdraw', target.state)) {
      throw new IngestError(
        'conflict',
        `Run "${run}" is ${target.state}; publish another run before you withdraw it.`,
      );
    }
    await transition(queryOf(trx), 'withdraw', 'r.revision_id = $1', [target.revision_id]);
    const detail = { was: target.state, ...(reason === undefined ? {} : { reason }) };
    const { revision } = target;
    await recordAudit(trx, { actor: principal.name, action: 'withdraw', model, run, revision, detail });
  });
}

/**
 * tus termination: cancels an upload that is not finished, and with it the runs that wait for it. A finished file
 * belongs to its run and stays.
 */
export async function withdrawUpload(
  db: Kysely<Database>,
  dataDir: string,
  uploadId: string,
  principal: Principal,
): Promise<void> {
  const actor = principal.name;
  const fileName = await db.transaction().execute(async (trx) => {
    // First, so that no declaration can begin to share it: that one waits, and then finds it removed.
    const upload = await trx
      .updateTable('ingest.upload')
      .set({ removed_at: sql<Date>`now()` })
      .where('upload_id', '=', uploadId)
      .where('received_at', 'is', null)
      .where('removed_at', 'is', null)
      .returning(['model', 'offset_bytes', 'created_by', 'file'])
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
        `The upload was made for "${upload.created_by}"; use that token, or one with the scope "operate".`,
      );
    }
    const detail = { uploadId, offsetBytes: upload.offset_bytes };
    for (const { revision_id, run, revision, state } of ended) {
      await transition(queryOf(trx), 'withdraw', 'r.revision_id = $1', [revision_id]);
      await recordAudit(trx, {
        actor,
        action: 'withdraw',
        model,
        run,
        revision,
        detail: { was: state, uploadId },
      });
    }
    const runs = ended.slice(0, MOST_NAMED).map(({ run, revision }) => ({ run, revision }));
    await recordAudit(trx, {
      actor,
      action: 'remove_upload',
      model,
      detail: { ...detail, runsEnded: ended.length, runs },
    });
    return upload.file ?? uploadId;
  });
  await removeUploadFile(dataDir, fileName);
}

/** In the event of the upload; each run has an event of its own besides. */
const MOST_NAMED = 100;

const LOCK_NOT_AVAILABLE = '55P03';
const ATTACH_WITHIN = '5s';

interface PublishByHand extends RevisionKey {
  /** Publish it although it breaks gates. */
  readonly force: boolean;
  readonly reason: string;
  readonly actor: string;
  /** The publication that the caller has seen as the current one (0: none); undefined does not ask. */
  readonly expectedPublicationId?: number | undefined;
}

/**
 * Makes a loaded revision the one that readers see: one that is held, or an older one to roll back to. A row is
 * written, no score is moved. Asking again for what is published already changes nothing.
 */
export async function publishByHand(db: Kysely<Database>, request: PublishByHand): Promise<void> {
  const { model, run, actor, reason, force } = request;
  await db.transaction().execute(async (trx) => {
    await lockModel(trx, model);
    await compareCurrent(trx, model, request.expectedPublicationId);
    const target = await lockRevision(trx, request);
    if (target.state === 'published') return;
    const broken = (target.gates ?? []).filter((gate) => gate.broken);
    refuseUnlessLoaded(target, request);
    if (broken.length > 0 && !force) throw brokenGates(broken, request);
    await attach(trx, target);
    const query = queryOf(trx);
    const [previous] = await transition(query, 'step_down', 'r.model = $1', [model]);
    await transition(query, 'publish_by_hand', 'r.revision_id = $1', [target.revision_id]);
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
  });
}

/** Readers see a partition only when it is attached. Another ATTACH, or a maintenance command, may be under way for a moment. */
async function attach(trx: Transaction<Database>, target: FoundRevision): Promise<void> {
  try {
    await sql`SET LOCAL lock_timeout = ${sql.lit(ATTACH_WITHIN)}`.execute(trx);
    await sql`SELECT ingest.attach_revision(${target.revision_id})`.execute(trx);
  } catch (error) {
    if (sqlStateOf(error) !== LOCK_NOT_AVAILABLE) throw error;
    throw new IngestError(
      'database_unavailable',
      'Another command holds the table of this model; nothing was published. Try again in a moment.',
      { cause: error, retryAfterSeconds: 5 },
    );
  }
}

async function compareCurrent(
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
    `Something else was published for model "${model}" meanwhile (publication ${id}, not ${expectedId}); look at GET /v1/models/${model} and decide again.`,
  );
}

function refuseUnlessLoaded(target: FoundRevision, { model, run }: PublishByHand): void {
  const name = `Revision ${target.revision} of run "${run}" of model "${model}"`;
  if (!startsFrom('publish_by_hand', target.state)) {
    throw new IngestError(
      'conflict',
      `${name} is ${target.state}; only what is loaded (held or superseded) can be published.`,
    );
  }
  if (target.retired_at === null) return;
  throw new IngestError(
    'conflict',
    `The rows of ${name.replace('Revision', 'revision')} went with retention. Withdraw it and push the run again to load it anew.`,
  );
}

function brokenGates(broken: readonly GateResult[], { run }: PublishByHand): IngestError {
  const told = broken.map(({ gate, expected, found }) => `${gate} is ${expected}, found ${found}`).join('; ');
  return new IngestError(
    'conflict',
    `Run "${run}" breaks the contract of its model: ${told}. Publish it with force if that is right.`,
  );
}
