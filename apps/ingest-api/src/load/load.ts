import { type LoadOutcome, partitionOf } from 'db-schema';
import type { ClientBase } from 'pg';
import { createScoreLineScanner, type FoundKey } from 'score-lines';
import { type Contract, printable } from 'wire';
import { sqlStateOf } from '../errors.ts';
import { contractOf, limitsOf, MAX_REJECTED_LINES_DEFAULT, type RunLimits } from '../runs/models.ts';
import { queryOf } from '../runs/transitions.ts';
import type { Store } from '../store/store.ts';
import { type ClaimedRevision, endAttempt, type LoadProgress } from './attempts.ts';
import { copyFiles, readLines } from './copy.ts';
import {
  BytesLost,
  DataFault,
  type FileReject,
  recordDataFault,
  recordLostBytes,
  recordRejects,
} from './faults.ts';
import { publishRevision } from './publish.ts';

interface LoadOptions {
  readonly store: Store;
  readonly runLimits: RunLimits;
  readonly attemptId: number;
  readonly progress: LoadProgress;
}

export interface EndedLoad {
  readonly outcome: LoadOutcome;
  /** Set when the outcome is `retry`: the revision waits for bytes that the disk has lost. */
  readonly reason: string | null;
}

/**
 * Loads a claimed revision inside the claim's own transaction: partition, COPY, key, attach, publish, and the
 * outcome of the attempt. After COMMIT all of it is there, or nothing.
 *
 * @returns the outcome, not yet committed.
 * @throws every fault of the machinery; the transaction must then be rolled back.
 */
export async function loadRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: LoadOptions,
): Promise<EndedLoad> {
  const { model, revisionId } = claimed;
  const { attemptId, progress } = options;
  const partition = partitionOf(model, revisionId);
  // `score` first: a row then takes 52 bytes instead of 60 (docs/architecture.md).
  await client.query(`
    CREATE TABLE ${partition} (
      score double precision NOT NULL,
      revision_id integer NOT NULL DEFAULT ${revisionId} CHECK (revision_id = ${revisionId}),
      pk text COLLATE "C" NOT NULL,
      attributes jsonb)`);
  let outcome: LoadOutcome;
  let reason: string | null = null;
  try {
    outcome = await fillAndPublish(client, claimed, partition, options);
  } catch (error) {
    if (!(error instanceof BytesLost || error instanceof DataFault)) throw error;
    await client.query(`DROP TABLE ${partition}`);
    if (error instanceof BytesLost) {
      await recordLostBytes(client, revisionId, error);
      outcome = 'retry';
      reason = error.message;
    } else {
      await recordDataFault(client, revisionId, error);
      outcome = 'failed';
    }
  }
  await endAttempt(client, attemptId, outcome, reason, progress);
  return { outcome, reason };
}

async function fillAndPublish(
  client: ClientBase,
  claimed: ClaimedRevision,
  partition: string,
  { store, runLimits, progress }: LoadOptions,
): Promise<LoadOutcome> {
  const contract = await contractOf(queryOf(client), claimed.model);
  const { rejects, scores, bytes } = await copyFiles(client, claimed, {
    store,
    partition,
    maxRejectedLines: contract.maxRejectedLines ?? MAX_REJECTED_LINES_DEFAULT,
    limits: limitsOf(contract, runLimits),
    attributes: contract.attributes,
    onProgress: (bytesDone, rowsDone) => {
      progress.bytesDone = bytesDone;
      progress.rowsDone = rowsDone;
    },
  });
  const { summary } = scores;
  try {
    if (summary.rows === 0) throw noRows(claimed);
    progress.phase = 'building_key';
    await buildKey(client, partition, claimed, { store, attributes: contract.attributes });
    await client.query(`ANALYZE ${partition}`); // the first query of a reader needs it; autovacuum comes a minute later
  } catch (error) {
    throw error instanceof DataFault ? error.with(rejects) : error;
  }
  progress.phase = 'attaching';
  await recordRejects(queryOf(client), claimed.revisionId, rejects.kept);
  return publishRevision(client, claimed, progress, {
    profile: { ...summary, bytes, seconds: progress.seconds },
    rejects: rejects.totals,
    binShares: (deciles) => scores.binShares(deciles),
  });
}

/** A run without rows would take the model's scores away from its readers, and nobody wants that. */
function noRows({ files }: ClaimedRevision): DataFault {
  const found = files.length === 1 ? 'The file has no rows' : `The ${files.length} files have no rows`;
  return new DataFault({
    code: 'no_rows',
    detail: `${found}; a run needs at least one. Push the run again when its data is there.`,
  });
}

const UNIQUE_VIOLATION = '23505';

/** The lines of a revision, to be read again, and the attributes that decide which of them are rejected. */
interface LinesSource {
  readonly store: Store;
  readonly attributes: Contract['attributes'];
}

/**
 * Builds the primary key after the rows are in: several times faster than keeping it up to date during the
 * COPY. Under a savepoint, so that the rows can still be asked for their duplicates.
 *
 * @throws {DataFault} names the keys that occur more than once.
 */
export async function buildKey(
  client: ClientBase,
  partition: string,
  claimed: ClaimedRevision,
  source: LinesSource,
): Promise<void> {
  await client.query('SAVEPOINT build_key');
  try {
    // Full pages: no row is added later.
    await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk) WITH (fillfactor = 100)`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    await client.query('ROLLBACK TO SAVEPOINT build_key');
    throw await duplicateKeys(client, partition, claimed, source);
  }
  await client.query('RELEASE SAVEPOINT build_key');
}

/** This many keys are named, in the order of the keys. */
const NAMED_KEYS = 1_000;
/** This many places of each: a key that occurs a million times is a constant, and 20 places show it. */
const PLACES_PER_KEY = 20;
const KEYS_IN_DETAIL = 5;
/** A key may have 2,048 bytes, and is repeated in each of its 20 places. */
const SHOWN_KEY_CHARACTERS = 100;
/**
 * The transaction's connection is idle while the files are read again; the server ends it after 5 min of
 * that.
 */
const KEEP_ALIVE_EVERY_MS = 30_000;

interface DuplicateKey {
  readonly pk: string;
  readonly copies: number;
  /** The number of all duplicate keys, the same in each row. */
  readonly keys: number;
  /** The number of lines that have one, the same in each row. */
  readonly lines: number;
}

/**
 * The keys come from the rows in the partition; rows do not know their lines, so the places come from reading
 * the files again.
 */
async function duplicateKeys(
  client: ClientBase,
  partition: string,
  claimed: ClaimedRevision,
  source: LinesSource,
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
      detail: `${keys === 1 ? 'A key occurs' : `${keys} keys occur`} more than once in this run: ${named}${more}. Each pk must occur once. Fix the data and push again.`,
    },
    { total: lines, byCode: { duplicate_key: lines } },
    await placesOf(client, rows, claimed, source),
  );
}

async function placesOf(
  client: ClientBase,
  duplicates: readonly DuplicateKey[],
  claimed: ClaimedRevision,
  { store, attributes }: LinesSource,
): Promise<FileReject[]> {
  const copiesOf = new Map(duplicates.map(({ pk, copies }) => [pk, copies]));
  const places = new Map<string, FileReject[]>();
  const note = (file: string, { pk, line, byteOffset, excerpt }: FoundKey) => {
    const known = places.get(pk) ?? [];
    places.set(pk, known);
    if (known.length === PLACES_PER_KEY) return;
    const detail = `The key ${shownKey(pk)} occurs ${copiesOf.get(pk)} times in this run.`;
    known.push({ file, line, byteOffset, code: 'duplicate_key', detail, excerpt });
  };
  let askedAtMs = performance.now();
  for (const file of claimed.files) {
    const scanner = createScoreLineScanner({
      onReject: () => {}, // the COPY has reported these already
      attributes,
      find: { keys: new Set(copiesOf.keys()), onFound: (found) => note(file.name, found) },
    });
    for await (const chunk of readLines(file, store)) {
      scanner.scan(chunk);
      if (performance.now() - askedAtMs < KEEP_ALIVE_EVERY_MS) continue;
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
