import type { Database, LoadPhase, RejectTotals, RevisionError } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { ClientBase } from 'pg';
import type { RejectCode, RejectedLine } from 'score-lines';
import { printableLines, type RunErrorCode } from 'wire';
import { describeError, sqlStateOf } from '../errors.ts';
import { type Query, queryOf, transition, transitionOne } from '../runs/transitions.ts';
import { setBackUploads } from '../runs/uploads.ts';
import type { ClaimedFile, ClaimedRevision } from './attempts.ts';

/**
 * The data is at fault: the same bytes would fail again. Carries what the run says about it. Everything else
 * that is thrown during a load, except `BytesLost`, is a fault of the machinery, and the load is tried again.
 */
export class DataFault extends Error {
  override readonly name = 'DataFault';
  readonly error: DataError;
  readonly rejects: RejectTotals;
  readonly rejectedLines: readonly FileReject[];
  /** Uploads that must be sent again. */
  readonly suspects: readonly Suspect[];

  constructor(
    error: DataError,
    rejects: RejectTotals = { total: 0, byCode: {} },
    rejectedLines: readonly FileReject[] = [],
    suspects: readonly Suspect[] = [],
  ) {
    super(printableLines(error.detail));
    this.error = { ...error, detail: this.message };
    this.rejects = rejects;
    this.rejectedLines = rejectedLines;
    this.suspects = suspects;
  }

  /** The same fault with the lines that were left out before it, as the model's contract allows. */
  with(allowed: RejectList): DataFault {
    const totals = {
      total: allowed.totals.total + this.rejects.total,
      byCode: { ...allowed.totals.byCode, ...this.rejects.byCode },
    };
    return new DataFault(this.error, totals, [...allowed.kept, ...this.rejectedLines]);
  }
}

interface DataError extends RevisionError {
  readonly code: RunErrorCode;
}

/** A line that is not loaded: its text is wrong, or its key occurs in another line too. */
export interface FileReject extends Omit<RejectedLine, 'code'> {
  readonly file: string;
  readonly code: RejectCode | 'duplicate_key';
}

/** This many rejected lines are kept in full; the totals count all of them. */
const KEPT_REJECTS = 1_000;

/** The rejected lines of a revision, file after file. The model's contract allows some. */
export class RejectList {
  readonly #allowed: number;
  readonly #kept: FileReject[] = [];
  readonly #byCode: Record<string, number> = {};
  #total = 0;

  constructor(allowed: number) {
    this.#allowed = allowed;
  }

  add(file: string, rejected: RejectedLine): void {
    this.#total += 1;
    this.#byCode[rejected.code] = (this.#byCode[rejected.code] ?? 0) + 1;
    if (this.#kept.length < KEPT_REJECTS) this.#kept.push({ file, ...rejected });
  }

  get totals(): RejectTotals {
    return { total: this.#total, byCode: { ...this.#byCode } };
  }

  get kept(): readonly FileReject[] {
    return this.#kept;
  }

  /** More lines are rejected than the contract allows: nothing of the revision will be published. */
  get isTooLong(): boolean {
    return this.#total > this.#allowed;
  }

  /** The fault that names the first rejected line and carries the others. */
  toFault(): DataFault {
    const [first] = this.#kept;
    if (first === undefined) throw new Error('No line was rejected.');
    const more = this.#total - 1;
    const others = more === 0 ? '' : more === 1 ? ' 1 more line is bad.' : ` ${more} more lines are bad.`;
    const allowed = this.#allowed === 0 ? '' : ` The model's contract allows ${this.#allowed} bad lines.`;
    return new DataFault(
      {
        code: 'bad_lines',
        detail: `${first.file}, line ${first.line}, byte ${first.byteOffset}: ${first.detail}${others}${allowed} Fix the data and push again.`,
        file: first.file,
        line: first.line,
        byte_offset: first.byteOffset,
      },
      this.totals,
      this.#kept,
    );
  }
}

/** What is on the disk differs from what was declared. */
export interface Mismatch {
  readonly file: ClaimedFile;
  /** `100 bytes instead of 200`. */
  readonly found: string;
  /**
   * `short`: bytes are missing, and only these are sent again. `wrong`: all of the file is sent again.
   * `lines`: the bytes are those that were sent, but they have another number of lines than was declared.
   */
  readonly kind: 'short' | 'wrong' | 'lines';
  /** How many bytes from its beginning need not be sent again; undefined when no loss is to be recorded. */
  readonly bytesLeft?: number;
}

/** An upload with fewer bytes than were received, as a load has read it. */
interface Suspect {
  readonly uploadId: string;
  /** When the bytes that were read had been received. Content that was received again since is left alone. */
  readonly receivedAt: string | null;
  readonly bytesLeft: number | undefined;
}

/**
 * Bytes that were received are not on the disk any more: the run is not at fault, and waits for them again.
 */
export class BytesLost extends Error {
  override readonly name = 'BytesLost';
  readonly suspects: readonly Suspect[];

  constructor(short: readonly Mismatch[]) {
    super(
      `The service received bytes that its disk does not have any more: ${named(short)}. Push the run again; only the missing bytes are sent.`,
    );
    this.suspects = short.map(suspectOf);
  }
}

/**
 * The fault of all mismatches of a run together: bytes that are missing can still arrive, wrong bytes fail
 * the run.
 */
export function contentFault(mismatches: readonly Mismatch[]): DataFault | BytesLost {
  const [first] = mismatches;
  if (first === undefined) throw new Error('There is no mismatch.');
  if (mismatches.every(({ kind }) => kind === 'short')) return new BytesLost(mismatches);
  const files = mismatches.length === 1 ? '1 file' : `${mismatches.length} files`;
  return new DataFault(
    {
      code: 'content_mismatch',
      detail: `The content of ${files} differs from what was declared: ${named(mismatches)}. Push again; only what is wrong or missing is sent again.`,
      file: first.file.name,
    },
    undefined,
    undefined,
    mismatches.filter(({ kind }) => kind !== 'lines').map(suspectOf),
  );
}

const NAMED_FILES = 10;

function named(mismatches: readonly Mismatch[]): string {
  const names = mismatches.slice(0, NAMED_FILES).map(({ file, found }) => `"${file.name}" (${found})`);
  const more = mismatches.length - names.length;
  return names.join(', ') + (more > 0 ? ` and ${more} more` : '');
}

function suspectOf({ file: { uploadId, receivedAt }, bytesLeft }: Mismatch): Suspect {
  return { uploadId, receivedAt, bytesLeft };
}

/**
 * Records what a load has read, without asking the store once more: a bucket needs seconds for each object that it does not
 * have, and the load has asked it again and again.
 */
function setBackSuspects(query: Query, suspects: readonly Suspect[]): ReturnType<typeof setBackUploads> {
  const byUpload = new Map(suspects.map((suspect) => [suspect.uploadId, suspect]));
  return setBackUploads(query, [...byUpload.keys()], 'loader', ({ uploadId, receivedAt }) => {
    const suspect = byUpload.get(uploadId);
    return suspect?.receivedAt === receivedAt ? suspect.bytesLeft : undefined;
  });
}

/**
 * Records, in the load's own transaction, that the data is at fault. Uploads with wrong content must be sent
 * again, for whichever run they are needed.
 */
export async function recordDataFault(
  client: ClientBase,
  revisionId: number,
  fault: DataFault,
): Promise<void> {
  const query = queryOf(client);
  await transitionOne(query, 'fail', revisionId, columnsOf(fault));
  await recordRejects(query, revisionId, fault.rejectedLines);
  await setBackSuspects(query, fault.suspects);
}

function columnsOf({ error, rejects }: DataFault): Record<string, string> {
  return { error: JSON.stringify(error), rejects: JSON.stringify(rejects) };
}

/** Keeps the rejected lines in the order in which they were found, and deletes those of an earlier load. */
export async function recordRejects(
  query: Query,
  revisionId: number,
  lines: readonly FileReject[],
): Promise<void> {
  await query('DELETE FROM ingest.rejected_line WHERE revision_id = $1', [revisionId]);
  await query(
    `INSERT INTO ingest.rejected_line (revision_id, file, line, byte_offset, code, detail, excerpt)
     SELECT $1, r.file, r.line, r."byteOffset", r.code, r.detail, r.excerpt
     FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (file text, line bigint, "byteOffset" bigint, code text, detail text, excerpt text))
       WITH ORDINALITY AS r(file, line, "byteOffset", code, detail, excerpt, place)
     ORDER BY r.place`,
    [revisionId, JSON.stringify(lines)],
  );
}

/**
 * Records, in the load's own transaction, that the revision waits for bytes again.
 *
 * @throws the fault itself when all bytes have been received again: there is nothing to wait for.
 */
export async function recordLostBytes(
  client: ClientBase,
  revisionId: number,
  fault: BytesLost,
): Promise<void> {
  const { revisionIds } = await setBackSuspects(queryOf(client), fault.suspects);
  if (!revisionIds.includes(revisionId)) throw fault;
}

/**
 * Data exception, integrity constraint violation, program limit exceeded: errors that the rows themselves
 * cause.
 */
const ROW_ERRORS = [/^22/, /^23/, /^54/];

/**
 * The fault of rows that PostgreSQL refuses although the scanner accepted them: because of a constraint that
 * somebody added, or of a limit that the scanner does not know. Any other error of PostgreSQL (memory, disk,
 * privilege, lock, connection, damaged table) may be fixed while the run waits.
 *
 * @returns undefined unless the attempt before met the same error: one refusal may come from a crash nearby,
 *   two prove that the bytes are to blame.
 */
export async function refusalOfRows(
  side: Kysely<Database>,
  { revisionId }: ClaimedRevision,
  { attempt, phase, cause }: { attempt: number; phase: LoadPhase; cause: unknown },
): Promise<DataFault | undefined> {
  const sqlState = sqlStateOf(cause);
  if (sqlState === undefined || !ROW_ERRORS.some((pattern) => pattern.test(sqlState))) return undefined;
  if (phase !== 'copying' && phase !== 'building_key') return undefined;
  const before = await side
    .selectFrom('ingest.load_attempt')
    .select('error')
    .where('revision_id', '=', revisionId)
    .where('attempt', '=', attempt - 1)
    .executeTakeFirst();
  const found = describeError(cause);
  if (before?.error !== found) return undefined;
  return new DataFault({
    code: 'refused_by_database',
    detail: `PostgreSQL refuses a row of this run: ${found}. It would refuse the same bytes again. Tell the operators of the service.`,
  });
}

/**
 * Records a refusal. Call it after the load's own transaction has ended, as that one holds the revision's
 * row.
 */
export async function recordRefusal(
  side: Kysely<Database>,
  revisionId: number,
  attemptId: number,
  { fault, cause }: { fault: DataFault; cause: unknown },
): Promise<void> {
  await side.transaction().execute(async (trx) => {
    await sql`SET LOCAL lock_timeout = '10s'`.execute(trx);
    const { numUpdatedRows } = await trx
      .updateTable('ingest.load_attempt')
      .set({ outcome: 'failed', finished_at: sql<Date>`now()`, error: describeError(cause) })
      .where('attempt_id', '=', attemptId)
      .where('finished_at', 'is', null)
      .executeTakeFirst();
    // Another loader has the run now, and will meet the same error.
    if (numUpdatedRows === 0n) return;
    // Nothing locked the row in between: a run that was withdrawn stays so.
    await transition(queryOf(trx), 'fail', 'r.revision_id = $1', [revisionId], columnsOf(fault));
  });
}
