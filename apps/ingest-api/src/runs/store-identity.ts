import { randomUUID } from 'node:crypto';
import type { Database } from 'db-schema';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import { describeError, isDatabaseUnavailable } from '../errors.ts';
import { type Marker, readMarker, rememberMarker, writeMarker } from '../store/folder.ts';
import { recordAudit } from './history.ts';
import { type LostBytes, setBackAllShort } from './uploads.ts';

/** The folder is not the one that the database knows; nothing was changed. */
export class WrongStore extends Error {
  override readonly name = 'WrongStore';
}

/**
 * Makes sure that folder and database belong together, before either is touched: the folder's marker and the database's
 * row name the same store, and the folder is not older than the row. A database without a row and a folder without a
 * marker are both new: they are given an id.
 *
 * @throws {WrongStore} says both ids and what to do.
 */
async function openStore(db: Kysely<Database>, dataDir: string): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const row = await storeOf(trx);
    const marker = await readMarker(dataDir);
    if (row === undefined && marker === undefined) return begin(trx, dataDir);
    if (row === undefined || marker === undefined || !belongs(marker, row))
      throw new WrongStore(refusal(dataDir, marker, row));
    rememberMarker(dataDir, marker);
  });
}

/**
 * `openStore`, for a process that may start before its database.
 *
 * @returns false when the database cannot be reached now.
 */
export async function openWhenReachable(
  db: Kysely<Database>,
  dataDir: string,
  log: Logger,
): Promise<boolean> {
  try {
    await openStore(db, dataDir);
    return true;
  } catch (error) {
    if (!isDatabaseUnavailable(error)) throw error;
    log.warn({ err: describeError(error) }, 'the database cannot be reached; looked for again');
    return false;
  }
}

/** A folder is ahead of the row when the database was restored, or a process was killed between the two. */
function belongs(marker: Marker, row: Marker): boolean {
  return marker.storeId === row.storeId && marker.generation >= row.generation;
}

/** The database's row, locked, so that of two processes that start at once one makes the store. */
async function storeOf(trx: Transaction<Database>): Promise<Marker | undefined> {
  return trx
    .selectFrom('ingest.store')
    .select(['store_id as storeId', 'generation'])
    .forUpdate()
    .executeTakeFirst();
}

async function begin(trx: Transaction<Database>, dataDir: string): Promise<void> {
  const marker = { storeId: randomUUID(), generation: 1 };
  // Another process may be doing the same: its row is waited for, and is then the one.
  const made = await trx
    .insertInto('ingest.store')
    .values({ store_id: marker.storeId, generation: marker.generation })
    .onConflict((conflict) => conflict.doNothing())
    .returning('store_id')
    .executeTakeFirst();
  if (made !== undefined) {
    await writeMarker(dataDir, marker); // before the commit: a marker without a row is refused, a row without a marker too
    rememberMarker(dataDir, marker);
    return;
  }
  const row = await storeOf(trx);
  const theirs = await readMarker(dataDir);
  if (row === undefined || theirs === undefined || !belongs(theirs, row))
    throw new WrongStore(refusal(dataDir, theirs, row));
  rememberMarker(dataDir, theirs);
}

/** Marks folder and row as newer than every copy that was made of the folder so far. The folder goes first: it may be ahead. */
export async function renewStore(db: Kysely<Database>, dataDir: string): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const row = await storeOf(trx);
    const marker = await readMarker(dataDir);
    if (row === undefined || marker === undefined || !belongs(marker, row))
      throw new WrongStore(refusal(dataDir, marker, row));
    await moveTo(trx, dataDir, { storeId: row.storeId, generation: marker.generation + 1 });
  });
}

async function moveTo(trx: Transaction<Database>, dataDir: string, marker: Marker): Promise<void> {
  await writeMarker(dataDir, marker);
  await trx
    .insertInto('ingest.store')
    .values({ store_id: marker.storeId, generation: marker.generation })
    .onConflict((conflict) =>
      conflict.column('singleton').doUpdateSet({ store_id: marker.storeId, generation: marker.generation }),
    )
    .execute();
  rememberMarker(dataDir, marker);
}

/**
 * After a restore: makes the folder the store of this database, whatever each of them said before, and compares all
 * uploads with it. Those whose bytes are not there are sent again by the next push.
 */
export async function adoptStore(
  db: Kysely<Database>,
  dataDir: string,
  { actor, reason }: { readonly actor: string; readonly reason: string },
): Promise<{ readonly storeId: string; readonly lost: readonly LostBytes[] }> {
  const storeId = await db.transaction().execute(async (trx) => {
    const row = await storeOf(trx);
    const marker = await readMarker(dataDir);
    const adopted = {
      storeId: marker?.storeId ?? row?.storeId ?? randomUUID(),
      generation: Math.max(marker?.generation ?? 0, row?.generation ?? 0) + 1,
    };
    await moveTo(trx, dataDir, adopted);
    await recordAudit(trx, {
      actor,
      action: 'adopt_store',
      detail: { reason, dataDir, folder: marker ?? null, database: row ?? null, now: adopted },
    });
    return adopted.storeId;
  });
  return { storeId, lost: await setBackAllShort(db, dataDir) };
}

function refusal(dataDir: string, marker: Marker | undefined, row: Marker | undefined): string {
  const folder =
    marker === undefined
      ? `The folder ${dataDir} has no marker of a store`
      : `The folder ${dataDir} is the store ${marker.storeId} (generation ${marker.generation})`;
  const database =
    row === undefined
      ? 'the database has no store yet'
      : `the database's store is ${row.storeId} (generation ${row.generation})`;
  const older = marker?.storeId === row?.storeId ? ' The folder is an older copy.' : '';
  return `${folder}, and ${database}.${older} Nothing was changed. See whether the right disk is mounted and INGEST_DATA_DIR and DATABASE_URL belong together. After a restore, with every service and loader stopped: ingest-api store adopt --reason TEXT.`;
}
