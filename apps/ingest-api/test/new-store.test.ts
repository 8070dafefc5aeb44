import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { type Database, openDatabase } from 'db-schema';
import type { Kysely } from 'kysely';
import { pino } from 'pino';
import { openWhenReachable } from '../src/runs/store-identity.ts';
import { folderStore } from '../src/store/folder.ts';
import type { Store } from '../src/store/store.ts';
import { DurableStore } from '../src/store/tus-store.ts';
import { eventually, startSystem, type TestSystem } from './support/system.ts';

describe('a new store', () => {
  let system: TestSystem;
  let folder: string;
  const databases: Kysely<Database>[] = [];

  before(async () => {
    system = await startSystem();
    await system.stopService();
  });
  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'new-store-'));
    await system.query('DELETE FROM ingest.store');
  });
  afterEach(() => rm(folder, { recursive: true }));
  after(async () => {
    for (const db of databases) await db.destroy();
    await system.stop();
  });

  async function open(store: Store): Promise<boolean> {
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'opens a store',
      maxConnections: 1,
      onIdleError: () => {},
    });
    databases.push(db);
    return openWhenReachable(db, store, pino({ level: 'silent' }));
  }

  it('is created once by processes that start at the same time, also between the marker and the row', async () => {
    const isAnotherWaiting = () =>
      system.query(
        "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'opens a store%' AND wait_event_type = 'Lock'",
      );
    let others: Promise<boolean>[] = [];
    const first: Store = {
      ...folderStore(folder),
      async writeMarker(marker) {
        await folderStore(folder).writeMarker(marker);
        others = [open(folderStore(folder)), open(folderStore(folder))];
        for (const other of others) other.catch(() => {}); // awaited below
        await eventually(isAnotherWaiting, (rows) => rows.length === 2, 10_000);
      },
    };
    expect(await open(first)).to.equal(true);
    expect(await Promise.all(others)).to.deep.equal([true, true]);
    const marker = await folderStore(folder).readMarker();
    expect(await system.query('SELECT store_id FROM ingest.store')).to.deep.equal([
      { store_id: marker?.storeId },
    ]);
  });

  it('is not made of a folder that is the store of another database', async () => {
    await folderStore(folder).writeMarker({ storeId: '00000000-0000-4000-8000-000000000000', generation: 1 });
    const failure = await open(folderStore(folder)).catch((error: Error) => error.message);
    expect(failure).to.include('the database has no store yet. Nothing was changed.');
    expect(await system.query('SELECT store_id FROM ingest.store')).to.deep.equal([]);
  });

  it('in a bucket makes no folder that has its name', async () => {
    const store: Store = { ...folderStore(folder), name: path.join(folder, 's3:/scores') };
    // The base class creates its directory later, if it has to.
    const { directory } = new DurableStore({ store, claimOf: () => expect.fail('nothing is written') });
    expect(existsSync(directory)).to.equal(true);
  });
});
