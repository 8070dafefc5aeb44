import type { Database, GateResult, ModelName } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import { IngestError, sqlStateOf } from '../errors.ts';
import { recordAudit } from './audit.ts';
import { type FoundRevision, lockRevision, type RevisionKey } from './find-revision.ts';
import { lockModel } from './models.ts';

const LOCK_NOT_AVAILABLE = '55P03';
const ATTACH_WITHIN = '5s';

export interface PublishByHand extends RevisionKey {
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
    const [previous] = await trx
      .updateTable('ingest.run_revision')
      .set({ state: 'superseded' })
      .where('model', '=', model)
      .where('state', '=', 'published')
      .returning(['run_key', 'revision'])
      .execute();
    await trx
      .updateTable('ingest.run_revision')
      .set({ state: 'published', published_at: sql<Date>`clock_timestamp()` })
      .where('revision_id', '=', target.revision_id)
      .execute();
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
      detail: { reason, force, brokenGates: broken, replaces: previous ?? null },
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
  if (target.state !== 'held' && target.state !== 'superseded') {
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
