import type { Database, ModelName } from 'db-schema';
import type { Kysely, Transaction } from 'kysely';
import { IngestError, sqlStateOf } from '../errors.ts';

const LOCK_NOT_AVAILABLE = '55P03';

export interface RevisionKey {
  readonly model: ModelName;
  readonly run: string;
  /** The newest one when it is left out. */
  readonly revision?: number | undefined;
}

/** @throws a 404 when there is none. */
export async function findRevision(
  db: Kysely<Database>,
  { model, run, revision }: RevisionKey,
): Promise<{ readonly revision_id: number; readonly revision: number }> {
  const row = await db
    .selectFrom('ingest.run_revision')
    .select(['revision_id', 'revision'])
    .where('model', '=', model)
    .where('run_key', '=', run)
    .$if(revision !== undefined, (query) => query.where('revision', '=', revision ?? 0))
    .orderBy('revision', 'desc')
    .limit(1)
    .executeTakeFirst();
  if (row === undefined) throw noSuchRevision(model, run, revision);
  return row;
}

function noSuchRevision(model: ModelName, run: string, revision: number | undefined): IngestError {
  const which = revision === undefined ? '' : `revision ${revision} of `;
  return new IngestError('not_found', `Model "${model}" has no ${which}run "${run}".`);
}

export type FoundRevision = Awaited<ReturnType<typeof lockRevision>>;

/**
 * The revision that somebody wants to act on, its row locked until the transaction ends.
 *
 * @throws a 404 when there is none; a 409 while a loader holds it, which may take minutes to wait for.
 */
export async function lockRevision(trx: Transaction<Database>, { model, run, revision }: RevisionKey) {
  try {
    const row = await trx
      .selectFrom('ingest.run_revision')
      .select(['revision_id', 'revision', 'state', 'declared_by', 'gates', 'retired_at', 'error'])
      .where('model', '=', model)
      .where('run_key', '=', run)
      .$if(revision !== undefined, (query) => query.where('revision', '=', revision ?? 0))
      .orderBy('revision', 'desc')
      .limit(1)
      .forNoKeyUpdate()
      .noWait()
      .executeTakeFirst();
    if (row !== undefined) return row;
  } catch (error) {
    if (sqlStateOf(error) !== LOCK_NOT_AVAILABLE) throw error;
    throw new IngestError(
      'conflict',
      `Run "${run}" of model "${model}" is being loaded right now; wait until that is over.`,
      { cause: error },
    );
  }
  throw noSuchRevision(model, run, revision);
}
