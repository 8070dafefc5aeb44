import type { AsOfFrom, Database } from 'db-schema';
import type { Kysely, Transaction } from 'kysely';
import type { ModelName } from 'wire';
import { IngestError, sqlStateOf } from '../errors.ts';

export interface RevisionKey {
  readonly model: ModelName;
  readonly run: string;
  /** Left out: the newest one. */
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
 * The revision that somebody wants to change, its row locked until the transaction ends.
 *
 * @throws a 404 when there is none; a 409 while a loader holds it, which may last for minutes.
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
    if (!isLockNotAvailable(error)) throw error;
    throw new IngestError(
      'conflict',
      `Run "${run}" of model "${model}" is being loaded; wait until the load has ended.`,
      { cause: error },
    );
  }
  throw noSuchRevision(model, run, revision);
}

/**
 * True for a lock that another transaction held for longer than `lock_timeout`, or at the time of a NOWAIT.
 */
export function isLockNotAvailable(error: unknown): boolean {
  return sqlStateOf(error) === '55P03';
}

/** Where a revision is in the order of its model's runs. */
export interface RunPosition {
  readonly run: string;
  readonly revision: number;
  readonly revisionId: number;
  readonly asOf: Date;
}

/**
 * Whether `candidate` is shown instead of `current` (design: "Which run is current"). A new revision of the
 * current run replaces it. Otherwise the later `asOf` is shown; if they are equal, the run key that is later
 * in natural order (`part 10` after `part 9`); if these are equal too, the one that was declared later: ids
 * grow with declarations.
 */
export function isNewer(candidate: RunPosition, current: RunPosition): boolean {
  if (candidate.run === current.run) return candidate.revision > current.revision;
  const byDate = candidate.asOf.getTime() - current.asOf.getTime();
  if (byDate !== 0) return byDate > 0;
  const byKey = naturalOrder.compare(candidate.run, current.run);
  return byKey === 0 ? candidate.revisionId > current.revisionId : byKey > 0;
}

const naturalOrder = new Intl.Collator('en', { numeric: true });

/**
 * The date that the caller gave, or else the one in the run key. Undefined leaves it to the database's clock
 * at the declaration, so that no clock of a client or a service decides which of two runs is shown.
 */
export function asOfFor(
  given: Date | undefined,
  runKey: string,
): { readonly asOf: Date | undefined; readonly from: AsOfFrom } {
  if (given !== undefined) return { asOf: given, from: 'given' };
  const found = dateInRunKey(runKey);
  return found === undefined ? { asOf: undefined, from: 'declared' } : { asOf: found, from: 'run_key' };
}

/**
 * ISO 8601, extended (`2026-11`, `2026-11-03`, `2026-11-01T00:00:00+00:00`) or basic with the whole date
 * (`20261103`, `20261101T000000`), wherever it is in the key (`dt=2026-11-03`,
 * `scheduled__2026-11-01T00:00:00+00:00`), but never as a part of a longer word or number.
 */
const OFFSET = String.raw`(?<offset>Z|[+-]\d{2}(?::?\d{2})?)?`;
const EXTENDED = new RegExp(
  String.raw`(?<![\p{L}\d])(?<year>\d{4})-(?<month>\d{2})(?:-(?<day>\d{2})(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?${OFFSET})?)?(?![\p{L}\d]|-\d)`,
  'u',
);
const BASIC = new RegExp(
  String.raw`(?<![\p{L}\d])(?<year>\d{4})(?<month>\d{2})(?<day>\d{2})(?:T(?<hour>\d{2})(?<minute>\d{2})(?:(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?${OFFSET})?(?![\p{L}\d])`,
  'u',
);

/** The first date in a run key, in UTC unless it has an offset; undefined when there is none. */
export function dateInRunKey(runKey: string): Date | undefined {
  const groups = (EXTENDED.exec(runKey) ?? BASIC.exec(runKey))?.groups;
  if (groups === undefined) return undefined;
  const { year, month, day = '01', hour = '00', minute = '00', second = '00', fraction = '' } = groups;
  const milliseconds = fraction.slice(0, 3).padEnd(3, '0');
  const stated = `${year}-${month}-${day}T${hour}:${minute}:${second}.${milliseconds}`;
  const date = new Date(`${stated}${offsetOf(groups.offset)}`);
  // JavaScript reads 2026-02-30 as 2 March; a date that does not exist is not a date.
  const isReal = !Number.isNaN(date.getTime()) && new Date(`${stated}Z`).toISOString() === `${stated}Z`;
  return isReal ? date : undefined;
}

function offsetOf(text = 'Z'): string {
  if (text === 'Z') return text;
  const digits = text.slice(1).replace(':', '').padEnd(4, '0');
  return `${text[0]}${digits.slice(0, 2)}:${digits.slice(2)}`;
}
