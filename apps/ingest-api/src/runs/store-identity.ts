import { randomUUID } from 'node:crypto';
import type { Database } from 'db-schema';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import { describeError, IngestError, isDatabaseUnavailable } from '../errors.ts';
import { type Marker, type Store, WrongStore } from '../store/store.ts';
import { recordAudit } from './history.ts';
import { type LostBytes, setBackAllShort } from './uploads.ts';

/**
 * Checks that folder and database belong together, before the process changes either: the folder's marker and the
 * database's row must name the same store, and the folder must not be older than the row. A database without a row and a
 * folder without a marker are both new: they get an id.
 *
 * @returns false when the database or the bucket cannot be reached: a process may start before them, and then tries again.
 * @throws {WrongStore} says what was found on both sides, and what to do.
 */
export async function openWhenReachable(db: Kysely<Database>, store: Store, log: Logger): Promise<boolean> {
  try {
    await db.transaction().execute(async (trx) => {
      let found = await readBoth(trx, store);
      if (found.row === undefined) {
        await createStore(trx, store, found.marker);
        found = await readBoth(trx, store);
      }
      store.expectMarker(matchingMarker(store, found));
    });
    return true;
  } catch (error) {
    if (isDatabaseUnavailable(error))
      log.warn({ err: describeError(error) }, 'the database cannot be reached; trying again');
    else if (isStoreUnavailable(error))
      log.warn({ err: describeError(error) }, 'the store cannot be reached; trying again');
    else throw error;
    return false;
  }
}

function isStoreUnavailable(error: unknown): boolean {
  return (
    error instanceof IngestError && error.code === 'storage_fault' && error.retryAfterSeconds !== undefined
  );
}

/**
 * Marks folder and row as newer than every copy of the folder that exists so far. The folder is marked first: it may be
 * ahead of the row.
 */
export async function renewStore(db: Kysely<Database>, store: Store): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const marker = matchingMarker(store, await readBoth(trx, store));
    await writeBoth(trx, store, { storeId: marker.storeId, generation: marker.generation + 1 });
  });
}

/**
 * After a restore: makes the folder the store of this database, whichever ids both have, and compares all uploads with
 * their files. The next push sends missing bytes again.
 */
export async function adoptStore(
  db: Kysely<Database>,
  store: Store,
  { actor, reason }: { readonly actor: string; readonly reason: string },
): Promise<{ readonly storeId: string; readonly lost: readonly LostBytes[] }> {
  const storeId = await db.transaction().execute(async (trx) => {
    const { row, marker } = await readBoth(trx, store);
    const adopted = {
      storeId: marker?.storeId ?? row?.storeId ?? randomUUID(),
      generation: Math.max(marker?.generation ?? 0, row?.generation ?? 0) + 1,
    };
    await writeBoth(trx, store, adopted);
    await recordAudit(trx, {
      actor,
      action: 'adopt_store',
      detail: { reason, store: store.name, marker: marker ?? null, database: row ?? null, now: adopted },
    });
    return adopted.storeId;
  });
  return { storeId, lost: await setBackAllShort(db, store) };
}

interface BothSides {
  readonly row: Marker | undefined;
  readonly marker: Marker | undefined;
}

/** Locks the row, so that processes which read and write both sides do so one after the other. */
export async function readBoth(trx: Transaction<Database>, store: Store): Promise<BothSides> {
  const row = await trx
    .selectFrom('ingest.store')
    .select(['store_id as storeId', 'generation'])
    .forUpdate()
    .executeTakeFirst();
  return { row, marker: await store.readMarker() };
}

/**
 * Changes nothing when another process creates the store at the same time: the insert waits for its commit. That process may
 * have written its marker already.
 *
 * @param marker what the store had.
 * @throws {WrongStore} when it had one, and nobody is creating the row.
 */
async function createStore(
  trx: Transaction<Database>,
  store: Store,
  marker: Marker | undefined,
): Promise<void> {
  const created = { storeId: randomUUID(), generation: 1 };
  const inserted = await trx
    .insertInto('ingest.store')
    .values({ store_id: created.storeId, generation: created.generation })
    .onConflict((conflict) => conflict.doNothing())
    .returning('store_id')
    .executeTakeFirst();
  if (inserted === undefined) return;
  if (marker !== undefined) matchingMarker(store, { row: undefined, marker }); // throws, which takes the insert back
  await store.writeMarker(created); // before the commit: one without the other is refused
}

export async function writeBoth(trx: Transaction<Database>, store: Store, marker: Marker): Promise<void> {
  await store.writeMarker(marker);
  await trx
    .insertInto('ingest.store')
    .values({ store_id: marker.storeId, generation: marker.generation })
    .onConflict((conflict) =>
      conflict.column('singleton').doUpdateSet({ store_id: marker.storeId, generation: marker.generation }),
    )
    .execute();
  store.expectMarker(marker);
}

/** The folder may be ahead of the row: the database was restored, or a process was killed between the two writes. */
export function matchingMarker(store: Store, { row, marker }: BothSides): Marker {
  if (
    row !== undefined &&
    marker !== undefined &&
    marker.storeId === row.storeId &&
    marker.generation >= row.generation
  )
    return marker;
  const folder =
    marker === undefined
      ? `${store.name} has no marker of a store`
      : `${store.name} is store ${marker.storeId} (generation ${marker.generation})`;
  const database =
    row === undefined
      ? 'the database has no store yet'
      : `the store of the database is ${row.storeId} (generation ${row.generation})`;
  const older =
    marker !== undefined && marker.storeId === row?.storeId ? ' The folder or bucket is an older copy.' : '';
  throw new WrongStore(
    `${folder}, and ${database}.${older} Nothing was changed. Check that the right disk is mounted, and that INGEST_STORE (or INGEST_DATA_DIR) and DATABASE_URL belong together. After a restore, stop every service and loader and run: ingest-api store adopt --reason TEXT`,
  );
}
