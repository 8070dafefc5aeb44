import type { Database, ModelName } from 'db-schema';
import { sql, type Transaction } from 'kysely';
import { recordAudit } from './audit.ts';

/** Declarations of one run come one after the other; those of other runs do not wait. */
export async function lockRunKey(trx: Transaction<Database>, model: ModelName, run: string): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`run ${model} ${run}`}, 0))`.execute(trx);
}

export type NewestRevision = NonNullable<Awaited<ReturnType<typeof newestRevision>>>;

export async function newestRevision(trx: Transaction<Database>, model: ModelName, run: string) {
  return trx
    .selectFrom('ingest.run_revision')
    .select(['revision_id', 'revision', 'state', 'as_of', 'manifest_sha256', 'error'])
    .where('model', '=', model)
    .where('run_key', '=', run)
    .orderBy('revision', 'desc')
    .limit(1)
    .executeTakeFirst();
}

export interface NewRevision {
  readonly model: ModelName;
  readonly run: string;
  readonly asOf?: Date;
  /** The manifest's; null when none was declared. */
  readonly digest: Buffer | null;
  readonly source?: Record<string, unknown>;
  readonly declaredBy: string;
  readonly auditDetail: Record<string, unknown>;
}

/** Adds the next revision of a run, whose key is locked, and of its model when that is new; it has no file yet. */
export async function openRevision(
  trx: Transaction<Database>,
  newest: NewestRevision | undefined,
  { model, run, asOf, digest, source, declaredBy, auditDetail }: NewRevision,
): Promise<{ readonly revisionId: number }> {
  await trx
    .insertInto('ingest.model')
    .values({ name: model })
    .onConflict((c) => c.doNothing())
    .execute();
  await cancelUnfinished(trx, model, run);
  const revision = (newest?.revision ?? 0) + 1;
  const { revision_id } = await trx
    .insertInto('ingest.run_revision')
    .values({
      model,
      run_key: run,
      revision,
      // Without a date of its own a run stands where it was first declared.
      as_of: asOf ?? newest?.as_of ?? new Date(),
      manifest_sha256: digest,
      source: source === undefined ? null : JSON.stringify(source),
      declared_by: declaredBy,
    })
    .returning('revision_id')
    .executeTakeFirstOrThrow();
  await recordAudit(trx, { actor: declaredBy, action: 'declare', model, run, revision, detail: auditDetail });
  return { revisionId: revision_id };
}

/**
 * Older revisions of the run that have not been loaded are pointless now. One that a loader holds is left
 * to it (its row is locked): it will be loaded, and the newer one replaces it.
 */
async function cancelUnfinished(trx: Transaction<Database>, model: ModelName, run: string): Promise<void> {
  await sql`
    UPDATE ingest.run_revision SET state = 'cancelled'
    WHERE revision_id IN (
      SELECT revision_id FROM ingest.run_revision
      WHERE model = ${model} AND run_key = ${run} AND state IN ('receiving', 'queued')
      FOR NO KEY UPDATE SKIP LOCKED)`.execute(trx);
}
