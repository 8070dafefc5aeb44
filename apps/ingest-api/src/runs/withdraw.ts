import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { IngestError } from '../errors.ts';
import { removeUploadFile } from '../store/upload-files.ts';
import { recordAudit } from './audit.ts';
import { lockRevision, type RevisionKey } from './find-revision.ts';
import { RUN_STATES, type RunState } from './states.ts';
import { allows, type Principal } from './tokens.ts';

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

export interface WithdrawRequest extends RevisionKey {
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
    if (RUN_STATES[target.state].moves.cancelled === undefined) {
      throw new IngestError(
        'conflict',
        `Run "${run}" is ${target.state}; publish another run before you withdraw it.`,
      );
    }
    await trx
      .updateTable('ingest.run_revision')
      .set({ state: 'cancelled' })
      .where('revision_id', '=', target.revision_id)
      .execute();
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
      await trx
        .updateTable('ingest.run_revision')
        .set({ state: 'cancelled' })
        .where('revision_id', '=', revision_id)
        .execute();
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
