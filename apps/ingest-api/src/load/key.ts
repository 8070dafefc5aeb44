import type { ClientBase } from 'pg';
import { createScoreLineScanner, type FoundKey } from 'score-lines';
import { printable } from 'wire';
import { sqlStateOf } from '../errors.ts';
import type { Store } from '../store/store.ts';
import type { ClaimedRevision } from './attempts.ts';
import { readLines } from './copy.ts';
import { DataFault, type FileReject } from './faults.ts';

const UNIQUE_VIOLATION = '23505';

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
  store: Store,
): Promise<void> {
  await client.query('SAVEPOINT build_key');
  try {
    // Full pages: no row is added later.
    await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk) WITH (fillfactor = 100)`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    await client.query('ROLLBACK TO SAVEPOINT build_key');
    throw await duplicateKeys(client, partition, claimed, store);
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
  store: Store,
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
    await placesOf(client, rows, claimed, store),
  );
}

async function placesOf(
  client: ClientBase,
  duplicates: readonly DuplicateKey[],
  claimed: ClaimedRevision,
  store: Store,
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
