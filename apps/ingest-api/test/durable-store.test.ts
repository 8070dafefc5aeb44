import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import { uploadRecords } from '../src/runs/uploads.ts';
import { UploadLocks, type UploadRecords } from '../src/store/claims.ts';
import { folderStore } from '../src/store/folder.ts';
import { DurableStore } from '../src/store/tus-store.ts';
import { declare, scoreLines, startSystem, type TestSystem } from './support/system.ts';

/** The store of a second service on the same folder and database. */
describe('the store of a service that is not alone', () => {
  let system: TestSystem;
  let locks: UploadLocks;
  let records: UploadRecords;
  let store: DurableStore;
  const ends: (() => Promise<void>)[] = [];

  before(async () => {
    system = await startSystem();
    const connect = {
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'second',
    } as const;
    const { db } = openDatabase({ ...connect, maxConnections: 3, onIdleError: () => {} });
    const folder = folderStore(system.dataDir);
    records = uploadRecords(db);
    locks = new UploadLocks({
      store: folder,
      connection: { ...connect, applicationName: 'second (locks)' },
      records,
      onSessionLost: () => {},
    });
    store = new DurableStore({
      store: folder,
      claimOf: (uploadId) => locks.claimOf(uploadId),
    });
    ends.push(
      () => locks.close(),
      () => db.destroy(),
    );
  });
  after(async () => {
    for (const end of ends) await end();
    await system.stop();
  });

  /** A declared upload that this service has locked. */
  async function lockedUpload(run: string): Promise<{ id: string; unlock(): Promise<void> }> {
    const [file] = (await declare(system, 'churn', run, [{ name: 'a.jsonl', content: run + scoreLines(90) }]))
      .missing.files;
    const id = path.basename(file?.uploadUrl ?? '');
    const lock = locks.newLock(id);
    await lock.lock(new AbortController().signal, () => {});
    return { id, unlock: async () => lock.unlock() };
  }

  const bytesOf = (id: string) => readFile(path.join(system.dataDir, id), 'utf8');
  const offsetOf = async (id: string) => {
    const [row] = await system.query<{ offset_bytes: string }>(
      'SELECT offset_bytes FROM ingest.upload WHERE upload_id = $1',
      [id],
    );
    return Number(row?.offset_bytes);
  };

  async function* pieces(...texts: (string | (() => Promise<unknown>))[]) {
    for (const text of texts) {
      if (typeof text === 'string') yield [Buffer.from(text)];
      else await text();
    }
  }

  it('moves no offset for a writer that another one has replaced', async () => {
    const upload = await lockedUpload('replaced writer');
    const [{ writer }] = (await system.query<{ writer: string }>(
      'SELECT writer FROM ingest.upload WHERE upload_id = $1',
      [upload.id],
    )) as [{ writer: string }];
    await records.claim(upload.id, 'another writer', writer);
    const fault = await records.advance(upload.id, writer, 0, 10).catch((error: unknown) => error);
    await upload.unlock();
    expect(fault).to.have.property('code', 'upload_locked');
    expect(await offsetOf(upload.id)).to.equal(0);
    expect(await records.advance(upload.id, 'another writer', 0, 10)).to.equal(false);
    expect(await offsetOf(upload.id)).to.equal(10);
    await records.release(upload.id, 'another writer');
  });

  it('writes nothing more once the session with its locks has gone, and acknowledges nothing', async () => {
    const upload = await lockedUpload('lost lock');
    const loseLocks = () =>
      system.query(
        `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'second (locks)'`,
      );
    const refused = await store
      .write(pieces('first', ' second', loseLocks, ' third'), upload.id, 0)
      .catch((error: unknown) => error);
    expect(refused).to.include({ code: 'database_unavailable' });
    expect(await bytesOf(upload.id)).to.equal('first second');
    expect(await offsetOf(upload.id)).to.equal(0);
    await upload.unlock();
  });

  it('acknowledges nothing once another writer has taken its place', async () => {
    const upload = await lockedUpload('replaced');
    const takePlace = () =>
      system.query(`UPDATE ingest.upload SET writer = 'another one' WHERE upload_id = $1`, [upload.id]);
    const refused = await store
      .write(pieces('first', takePlace, ' second'), upload.id, 0)
      .catch((error: unknown) => error);
    expect(refused).to.include({ code: 'upload_locked' });
    expect(await offsetOf(upload.id)).to.equal(0);
    await upload.unlock();
  });
});
