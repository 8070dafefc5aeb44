import type { Database, LoadPhase, RejectTotals, RevisionError } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { ClientBase } from 'pg';
import { createScoreLineScanner, type FoundKey, type RejectCode, type RejectedLine } from 'score-lines';
import { printable, printableLines } from 'wire';
import { describeError, sqlStateOf } from '../errors.ts';
import { queryOf, transition } from '../runs/transitions.ts';
import type { Suspect } from '../runs/uploads.ts';
import type { ClaimedRevision } from './attempts.ts';
import { type Mismatch, readLines } from './copy.ts';

/** A line that is not loaded: refused by itself, or because its key occurs elsewhere too. */
interface FileReject extends Omit<RejectedLine, 'code'> {
  readonly file: string;
  readonly code: RejectCode | 'duplicate_key';
}

/**
 * The data is at fault: the same bytes would fail again. Carries what the run says of it. Everything else that is thrown
 * during a load, but for `BytesLost`, is a fault of the machinery, and is tried again.
 */
export class DataFault extends Error {
  override readonly name = 'DataFault';
  readonly error: RevisionError;
  readonly rejects: RejectTotals;
  readonly rejectedLines: readonly FileReject[];
  /** Uploads that must be sent again. */
  readonly suspects: readonly Suspect[];

  constructor(
    error: RevisionError,
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

  /** The same fault, telling also of the lines that the model's contract had allowed to leave out. */
  beside(allowed: { readonly totals: RejectTotals; readonly kept: readonly FileReject[] }): DataFault {
    const totals = {
      total: allowed.totals.total + this.rejects.total,
      byCode: { ...allowed.totals.byCode, ...this.rejects.byCode },
    };
    return new DataFault(this.error, totals, [...allowed.kept, ...this.rejectedLines]);
  }
}

/** Bytes that were received are not on the disk any more: the run is not at fault, and waits for them again. */
export class BytesLost extends Error {
  override readonly name = 'BytesLost';
  readonly suspects: readonly Suspect[];

  constructor(short: readonly Mismatch[]) {
    super(
      `Bytes that the service had received are not on its disk any more: ${named(short)}. Push the run again: the rest is sent.`,
    );
    this.suspects = short.map(suspectOf);
  }
}

/** What all mismatches of a run come to: bytes that are missing can still come, others make the run fail. */
export function contentFault(mismatches: readonly Mismatch[]): DataFault | BytesLost {
  const [first] = mismatches;
  if (first === undefined) throw new Error('There is no mismatch to report.');
  if (mismatches.every(({ kind }) => kind === 'short')) return new BytesLost(mismatches);
  const files = mismatches.length === 1 ? '1 file' : `${mismatches.length} files`;
  return new DataFault(
    {
      code: 'content_mismatch',
      detail: `What arrived of ${files} is not what was declared: ${named(mismatches)}. Push again: what is wrong is sent anew, and nothing else.`,
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

function suspectOf({ file, kind }: Mismatch): Suspect {
  const { uploadId, receivedAt } = file;
  return kind === 'wrong' && receivedAt !== null ? { uploadId, wrongSince: receivedAt } : { uploadId };
}

/** So many bad lines are kept whole; the totals count all of them. */
const KEPT_REJECTS = 1_000;

/** Collects the refused lines of a revision, file after file, of which the model's contract allows some. */
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

  /** There are more than may be: nothing of the revision will be published. */
  get isTooLong(): boolean {
    return this.#total > this.#allowed;
  }

  /** The fault that names the first bad line and carries the others. */
  toFault(): DataFault {
    const [first] = this.#kept;
    if (first === undefined) throw new Error('There is no rejected line to tell of.');
    const more = this.#total - 1;
    const others = more === 0 ? '' : more === 1 ? ' 1 more line is bad.' : ` ${more} more lines are bad.`;
    const allowed = this.#allowed === 0 ? '' : ` The model's contract allows ${this.#allowed} bad lines.`;
    return new DataFault(
      {
        code: 'bad_lines',
        detail: `${first.file}, line ${first.line}, byte ${first.byteOffset}: ${first.detail}${others}${allowed} Mend the data and push again.`,
        file: first.file,
        line: first.line,
        byte_offset: first.byteOffset,
      },
      this.totals,
      this.#kept,
    );
  }
}

/** Keeps the lines that were refused, in the order in which they were found, and forgets those of an earlier load. */
export async function recordRejects(
  client: ClientBase,
  revisionId: number,
  lines: readonly FileReject[],
): Promise<void> {
  await client.query('DELETE FROM ingest.rejected_line WHERE revision_id = $1', [revisionId]);
  await client.query(
    `INSERT INTO ingest.rejected_line (revision_id, file, line, byte_offset, code, detail, excerpt)
     SELECT $1, r.file, r.line, r."byteOffset", r.code, r.detail, r.excerpt
     FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (file text, line bigint, "byteOffset" bigint, code text, detail text, excerpt text))
       WITH ORDINALITY AS r(file, line, "byteOffset", code, detail, excerpt, place)
     ORDER BY r.place`,
    [revisionId, JSON.stringify(lines)],
  );
}

/** So many keys are named. */
const NAMED_KEYS = 1_000;
/** So many places of each: a key that stands a million times is a constant, and 20 of them show it. */
const PLACES_PER_KEY = 20;
const KEYS_IN_DETAIL = 5;
/** A key may have 2,048 bytes, and be told of 20 times. */
const SHOWN_KEY_CHARACTERS = 100;
/** The transaction's connection is idle while the files are read again; the server ends it after 5 min of that. */
const ASK_EVERY_MS = 30_000;

interface DuplicateKey {
  readonly pk: string;
  readonly copies: number;
  /** Of all duplicate keys, the same in each row. */
  readonly keys: number;
  readonly lines: number;
}

/**
 * Names the keys that stand more than once, from the rows in the partition, and then each place they stand, by
 * one more reading of the files: rows do not know their lines.
 */
export async function findDuplicates(
  client: ClientBase,
  partition: string,
  claimed: ClaimedRevision,
  dataDir: string,
): Promise<DataFault> {
  const { rows } = await client.query<DuplicateKey>(`
    SELECT pk, copies, count(*) OVER () AS keys, (sum(copies) OVER ())::bigint AS lines
    FROM (SELECT pk, count(*) AS copies FROM ${partition} GROUP BY pk HAVING count(*) > 1) d
    ORDER BY pk LIMIT ${NAMED_KEYS}`);
  const { keys, lines } = rows[0] ?? { keys: 0, lines: 0 };
  const named = rows
    .slice(0, KEYS_IN_DETAIL)
    .map((row) => `${shownKey(row.pk)} (${row.copies} times)`)
    .join(', ');
  const more = keys > KEYS_IN_DETAIL ? ` and ${keys - KEYS_IN_DETAIL} more` : '';
  return new DataFault(
    {
      code: 'duplicate_keys',
      detail: `${keys === 1 ? 'A key stands' : `${keys} keys stand`} more than once in this run: ${named}${more}. Each pk may stand once; mend the data and push again.`,
    },
    { total: lines, byCode: { duplicate_key: lines } },
    await placesOf(client, rows, claimed, dataDir),
  );
}

async function placesOf(
  client: ClientBase,
  duplicates: readonly DuplicateKey[],
  claimed: ClaimedRevision,
  dataDir: string,
): Promise<FileReject[]> {
  const copiesOf = new Map(duplicates.map(({ pk, copies }) => [pk, copies]));
  const places = new Map<string, FileReject[]>();
  const note = (file: string, { pk, line, byteOffset, excerpt }: FoundKey) => {
    const known = places.get(pk) ?? [];
    places.set(pk, known);
    if (known.length === PLACES_PER_KEY) return;
    const detail = `The key ${shownKey(pk)} stands ${copiesOf.get(pk)} times in this run.`;
    known.push({ file, line, byteOffset, code: 'duplicate_key', detail, excerpt });
  };
  let askedAtMs = performance.now();
  for (const file of claimed.files) {
    const scanner = createScoreLineScanner({
      onReject: () => {}, // told of already, or allowed
      find: { keys: new Set(copiesOf.keys()), onFound: (found) => note(file.name, found) },
    });
    for await (const chunk of readLines(file, dataDir)) {
      scanner.scan(chunk);
      if (performance.now() - askedAtMs < ASK_EVERY_MS) continue;
      await client.query('SELECT');
      askedAtMs = performance.now();
    }
    scanner.finish();
  }
  return [...places.values()].flat();
}

function shownKey(pk: string): string {
  const characters = [...pk];
  if (characters.length <= SHOWN_KEY_CHARACTERS) return printable(JSON.stringify(pk));
  return printable(JSON.stringify(`${characters.slice(0, SHOWN_KEY_CHARACTERS).join('')}…`));
}

/** Data exception, integrity constraint violation, program limit exceeded: PostgreSQL's word on the rows themselves. */
const REFUSALS = [/^22/, /^23/, /^54/];

/**
 * True when PostgreSQL refused the rows, so that the same bytes would be refused again. Whatever else it says (no
 * memory, no disk, no right, a lock, a connection, a table that is damaged) may be fixed while the run waits.
 */
export function isRefusalOfRows(error: unknown, phase: LoadPhase): boolean {
  const state = sqlStateOf(error);
  if (state === undefined || (phase !== 'copying' && phase !== 'building_key')) return false;
  return REFUSALS.some((pattern) => pattern.test(state));
}

/** True when the attempt before met the same: only then is it proven that the bytes are to blame, and no crash near by. */
export async function wasRefusedBefore(
  side: Kysely<Database>,
  revisionId: number,
  attempt: number,
  cause: unknown,
): Promise<boolean> {
  const before = await side
    .selectFrom('ingest.load_attempt')
    .select('error')
    .where('revision_id', '=', revisionId)
    .where('attempt', '=', attempt - 1)
    .executeTakeFirst();
  return before?.error === describeError(cause);
}

/**
 * Records that PostgreSQL refused rows which the scanner had let through: by a constraint that somebody has added, or by
 * a limit that the scanner should know of. To be called when the load's own transaction is over, which held the row.
 *
 * @throws when another loader has taken the revision up meanwhile; it will meet the same.
 */
export async function refuseRevision(
  side: Kysely<Database>,
  revisionId: number,
  attemptId: number,
  cause: unknown,
): Promise<void> {
  const error: RevisionError = {
    code: 'refused_by_database',
    detail: `PostgreSQL refuses a row of this run: ${describeError(cause)}. The same bytes would be refused again; have it looked at by whoever runs the service.`,
  };
  await side.transaction().execute(async (trx) => {
    await sql`SET LOCAL lock_timeout = '10s'`.execute(trx);
    const { numUpdatedRows } = await trx
      .updateTable('ingest.load_attempt')
      .set({ outcome: 'failed', finished_at: sql<Date>`now()`, error: describeError(cause) })
      .where('attempt_id', '=', attemptId)
      .where('finished_at', 'is', null)
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return; // another loader has taken the run over: it will meet the same
    await transition(queryOf(trx), 'fail', 'r.revision_id = $1', [revisionId], {
      error: JSON.stringify(error),
    });
  });
}
