import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'chai';
import { clientConfig, openDatabase } from 'db-schema';
import { uploadRecords } from '../src/runs/upload-records.ts';
import { DurableStore } from '../src/store/durable-store.ts';
import { UploadLocks } from '../src/store/upload-locks.ts';
import { newWriterName } from '../src/store/writer-identity.ts';
import { declare, scoreLines, startSystem, type TestSystem } from './support/system.ts';

/** Longer than a writer trusts a session that has gone (docs/decisions/0020). */
const GRACE_MS = 6_000;

/** The store of a second service on the same folder and database. */
describe('the store of a service that is not alone', function () {
  this.timeout(60_000);
  let system: TestSystem;
  let locks: UploadLocks;
  let store: DurableStore;
  let records: ReturnType<typeof uploadRecords>;
  const ends: (() => Promise<void>)[] = [];

  before(async () => {
    system = await startSystem();
    const connect = {
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'second',
    } as const;
    const { db } = openDatabase({ ...connect, maxConnections: 3, onIdleError: () => {} });
    locks = new UploadLocks({
      clientConfig: clientConfig({ ...connect, applicationName: 'second (locks)' }),
      onSessionLost: () => {},
    });
    records = uploadRecords(db);
    store = new DurableStore({
      dataDir: system.dataDir,
      records,
      assertLocked: (uploadId) => locks.assertHeld(uploadId),
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
      .files;
    const id = path.basename(file?.uploadUrl ?? '');
    const lock = locks.newLock(id);
    await lock.lock(new AbortController().signal, () => {});
    return { id, unlock: async () => lock.unlock() };
  }

  const bytesOf = (id: string) => readFile(path.join(system.dataDir, id), 'utf8');
  const offsetOf = async (id: string) => (await records.find(id))?.offsetBytes;

  async function* pieces(...texts: (string | (() => Promise<unknown>))[]) {
    for (const text of texts) {
      if (typeof text === 'string') yield [Buffer.from(text)];
      else await text();
    }
  }

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
      system.query('UPDATE ingest.upload SET writer = $2 WHERE upload_id = $1', [upload.id, newWriterName()]);
    const refused = await store
      .write(pieces('first', takePlace, ' second'), upload.id, 0)
      .catch((error: unknown) => error);
    expect(refused).to.include({ code: 'offset_conflict' });
    expect(await offsetOf(upload.id)).to.equal(0);
    await upload.unlock();
  });

  it('gives a writer that it cannot see the time to notice that its lock has gone', async () => {
    const upload = await lockedUpload('unseen');
    await leaveWriter(upload.id, 'another-host/pid:[1] 1 0123456789abcdef');
    expect(await msToWrite(upload.id)).to.be.at.least(GRACE_MS);
    await upload.unlock();
  });

  it('does not wait for one whose process has ended', async () => {
    const upload = await lockedUpload('ended');
    const [space, , random] = newWriterName().split(' ');
    const endedPid = execFileSync(process.execPath, ['-e', 'console.log(process.pid)'], {
      encoding: 'utf8',
    }).trim();
    await leaveWriter(upload.id, `${space} ${endedPid} ${random}`);
    expect(await msToWrite(upload.id)).to.be.below(GRACE_MS);
    await upload.unlock();
  });

  async function leaveWriter(id: string, writer: string): Promise<void> {
    await system.query('UPDATE ingest.upload SET writer = $2 WHERE upload_id = $1', [id, writer]);
  }

  async function msToWrite(id: string): Promise<number> {
    const startedMs = performance.now();
    expect(await store.write(pieces('all of it'), id, 0)).to.equal('all of it'.length);
    return performance.now() - startedMs;
  }
});
