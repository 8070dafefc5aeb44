import type { Database } from 'db-schema';
import type { Kysely } from 'kysely';
import { IngestError } from '../errors.ts';
import { recordAudit } from './audit.ts';
import { lockRevision, type RevisionKey } from './find-revision.ts';
import { RUN_STATES } from './states.ts';

export interface WithdrawRequest extends RevisionKey {
  readonly actor: string;
  readonly reason?: string | undefined;
  /** The caller may only push: it may take back what it declared itself, while that is being received. */
  readonly onlyOwn: boolean;
}

/** Gives up a revision that is not published: `cancelled`. Its rows and files go with the next sweeps. */
export async function withdrawRun(db: Kysely<Database>, request: WithdrawRequest): Promise<void> {
  const { model, run, actor, reason } = request;
  await db.transaction().execute(async (trx) => {
    const target = await lockRevision(trx, request);
    if (request.onlyOwn && (target.state !== 'receiving' || target.declared_by !== actor)) {
      throw new IngestError(
        'forbidden',
        `Run "${run}" is ${target.state} and was declared by "${target.declared_by}"; with the scope "push" only a run of one's own that is being received can be withdrawn.`,
      );
    }
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
    await recordAudit(trx, { actor, action: 'withdraw', model, run, revision: target.revision, detail });
  });
}
