import type { AsOfFrom, Database, ModelName } from 'db-schema';
import { sql, type Transaction } from 'kysely';
import { IngestError } from '../errors.ts';
import { recordAudit } from './audit.ts';
import { limitsOf, type RunLimits } from './contract.ts';
import { asOfOf } from './order.ts';

/** Declarations of one run happen one after the other, by the lock of its row; those of other runs do not wait. */
export async function lockRunKey(trx: Transaction<Database>, model: ModelName, run: string): Promise<void> {
  await trx
    .insertInto('ingest.model')
    .values({ name: model })
    .onConflict((c) => c.doNothing())
    .execute();
  await trx
    .insertInto('ingest.run')
    .values({ model, run_key: run })
    .onConflict((c) => c.doNothing())
    .execute();
  await trx
    .selectFrom('ingest.run')
    .select('run_key')
    .where('model', '=', model)
    .where('run_key', '=', run)
    .forNoKeyUpdate()
    .execute();
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

/** What a revision consists of; it never changes. */
export interface RevisionTotals {
  readonly files: number;
  readonly bytes: number;
  /** null when no manifest declared them. */
  readonly lines: number | null;
}

export interface NewRevision {
  readonly model: ModelName;
  readonly run: string;
  readonly asOf?: Date;
  /** The manifest's; null when none was declared. */
  readonly digest: Buffer | null;
  readonly source?: Record<string, unknown>;
  readonly declaredBy: string;
  readonly totals: RevisionTotals;
  /** What a run may have when its model's contract says nothing of it. */
  readonly limits: RunLimits;
  readonly auditDetail: Record<string, unknown>;
}

/**
 * Adds the next revision of a run, whose key is locked; it has no file yet.
 *
 * @throws a 400 for a date outside years 1 to 9999, or more than a year ahead of the database's clock: such a run would
 *   hide every later one; a 413 for a run that is larger than its model may be.
 */
export async function openRevision(
  trx: Transaction<Database>,
  newest: NewestRevision | undefined,
  { model, run, asOf: given, digest, source, declaredBy, totals, limits, auditDetail }: NewRevision,
): Promise<{ readonly revisionId: number }> {
  const { asOf, from } = asOfOf(given, run);
  if (asOf !== undefined) await refuseUnlikelyDate(trx, asOf, from);
  await refuseTooLarge(trx, model, run, totals, limits);
  await cancelUnfinished(trx, model, run);
  const revision = (newest?.revision ?? 0) + 1;
  const { revision_id } = await trx
    .insertInto('ingest.run_revision')
    .values({
      model,
      run_key: run,
      revision,
      as_of: asOf ?? sql<Date>`now()`,
      as_of_from: from,
      manifest_sha256: digest,
      file_count: totals.files,
      total_bytes: totals.bytes,
      total_lines: totals.lines,
      source: source === undefined ? null : JSON.stringify(source),
      declared_by: declaredBy,
    })
    .returning('revision_id')
    .executeTakeFirstOrThrow();
  await recordAudit(trx, { actor: declaredBy, action: 'declare', model, run, revision, detail: auditDetail });
  return { revisionId: revision_id };
}

/** What is known before the first byte is sent; the lines of a compressed file may be more, and are counted by the load. */
async function refuseTooLarge(
  trx: Transaction<Database>,
  model: ModelName,
  run: string,
  { bytes, lines }: RevisionTotals,
  defaults: RunLimits,
): Promise<void> {
  const { contract } = await trx
    .selectFrom('ingest.model')
    .select('contract')
    .where('name', '=', model)
    .executeTakeFirstOrThrow();
  const { maxBytes, maxRows } = limitsOf(contract, defaults);
  if (bytes <= maxBytes && (lines ?? 0) <= maxRows) return;
  const found =
    bytes > maxBytes
      ? `${bytes} bytes; ${maxBytes} are allowed (maxBytes)`
      : `${lines} lines; ${maxRows} are allowed (maxRows)`;
  throw new IngestError(
    'too_large',
    `Run "${run}" of model "${model}" has ${found}. Send less, or have the limit raised: ingest-api model set ${model} --max-bytes N --max-rows N.`,
  );
}

async function refuseUnlikelyDate(trx: Transaction<Database>, asOf: Date, from: AsOfFrom): Promise<void> {
  const year = asOf.getUTCFullYear();
  const source = from === 'given' ? 'as_of' : 'The date in the run key';
  if (year < 1 || year > 9999) {
    throw new IngestError('invalid_request', `${source} is in the year ${year}; it must be in 1 to 9999.`);
  }
  const { rows } = await sql<{ tooFar: boolean }>`
    SELECT ${asOf}::timestamptz > now() + interval '1 year' AS "tooFar"`.execute(trx);
  if (rows[0]?.tooFar !== true) return;
  throw new IngestError(
    'invalid_request',
    `${source} is ${asOf.toISOString()}, more than a year ahead: every run of the coming year would be hidden behind it. Give the date of the data (--as-of).`,
  );
}

/**
 * Older revisions of the run that have not been loaded have no purpose now. One that a loader holds is left
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
