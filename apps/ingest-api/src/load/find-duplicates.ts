import type { ClientBase } from 'pg';
import { createScoreLineScanner, type FoundKey, printable } from 'score-lines';
import type { ClaimedRevision } from './claim-next-load.ts';
import { DataFault, type FileReject } from './data-fault.ts';
import { readLines } from './read-lines.ts';

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
