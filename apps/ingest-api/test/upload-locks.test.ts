import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { expect } from 'chai';
import { clientConfig, migrateToLatest, openDatabase } from 'db-schema';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { uploadRecords } from '../src/runs/upload-records.ts';
import { UploadLocks } from '../src/store/upload-locks.ts';
import { writersOfProcess } from '../src/store/writer-name.ts';
import { GRACE_MS } from '../src/store/writer-session.ts';
import { eventually } from './support/system.ts';

const APPLICATION = 'locks';

/** Each `UploadLocks` stands for the one of another process: they share nothing but the database. */
describe('the locks of uploads, in two processes', function () {
  this.timeout(60_000);
  let database: TestDatabase;
  let here: UploadLocks;
  let there: UploadLocks;
  let uploadId: string;
  const lost: string[] = [];
  const ends: (() => Promise<void>)[] = [];

  beforeEach(async () => {
    database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    here = newLocks();
    there = newLocks();
    uploadId = randomBytes(16).toString('hex');
    lost.length = 0;
    await query(`INSERT INTO ingest.model (name) VALUES ('churn')`);
    await query(
      `INSERT INTO ingest.upload (upload_id, model, bytes, created_by) VALUES ('${uploadId}', 'churn', 100, 'test')`,
    );
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
    await database.drop();
  });

  function newLocks(): UploadLocks {
    const connect = { databaseUrl: database.url, role: 'ingest_api' } as const;
    const { db } = openDatabase({
      ...connect,
      applicationName: 'records',
      maxConnections: 3,
      onIdleError: () => {},
    });
    const locks = new UploadLocks({
      clientConfig: clientConfig({ ...connect, applicationName: APPLICATION }),
      records: uploadRecords(db),
      onSessionLost: (reason) => lost.push(reason),
    });
    ends.push(
      () => locks.close(),
      () => db.destroy(),
    );
    return locks;
  }

  /** Takes the lock, and gives it back when it is asked to, as a request does. */
  async function hold(locks: UploadLocks): Promise<{ isAsked(): boolean; free(): Promise<void> }> {
    const lock = locks.newLock(uploadId);
    let isAsked = false;
    let freed: Promise<void> | undefined;
    const free = () => {
      freed ??= lock.unlock() as Promise<void>;
      return freed;
    };
    await lock.lock(new AbortController().signal, () => {
      isAsked = true;
      void free();
    });
    return { isAsked: () => isAsked, free };
  }

  async function query(sql: string): Promise<Record<string, unknown>[]> {
    const client = new pg.Client({ connectionString: database.url, application_name: 'test' });
    await client.connect();
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  }

  const writers = () => query('SELECT writer FROM ingest.upload WHERE writer IS NOT NULL');
  const assertHeld = (locks: UploadLocks) => locks.claimOf(uploadId).assertHeld();

  it('are taken over within 3 s from a holder that brings nothing any more', async () => {
    const holder = await hold(here);
    const startedMs = performance.now();
    const next = await hold(there);
    expect(performance.now() - startedMs).to.be.within(1_000, 3_000);
    expect(holder.isAsked()).to.equal(true);
    await assertHeld(there);
    await next.free();
    expect(await writers()).to.deep.equal([]);
  });

  it('refuse a second one with 423 while the holder is alive', async () => {
    const holder = await hold(here);
    const alive = setInterval(() => here.noteProgress(uploadId), 100);
    const refused = await hold(there).then(
      () => undefined,
      (error: unknown) => error,
    );
    clearInterval(alive);
    expect(refused).to.include({ code: 'upload_locked', retryAfterSeconds: 2 });
    expect(holder.isAsked()).to.equal(false);
    await assertHeld(here);
    await holder.free();
    await (await hold(there)).free();
  });

  it('pass on at once when they are given back in order', async () => {
    const holder = await hold(here);
    const alive = setInterval(() => here.noteProgress(uploadId), 100);
    const waiting = hold(there);
    await eventually(writers, ({ length }) => length === 1);
    const startedMs = performance.now();
    clearInterval(alive);
    await holder.free();
    await (await waiting).free();
    // Long before it would be asked for as stalled, or given up.
    expect(performance.now() - startedMs).to.be.lessThan(3_000);
  });

  it('are lost with their session: the holder is told to stop, may not write, and can lock again', async () => {
    const holder = await hold(here);
    const claim = here.claimOf(uploadId);
    await query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = '${APPLICATION}'`,
    );
    await eventually(async () => holder.isAsked(), Boolean);
    const refused = await claim.assertHeld().catch((error: unknown) => error);
    expect(refused).to.include({ code: 'database_unavailable' });
    expect(lost).to.have.length(1);
    await (await hold(here)).free();
  });

  it('are given to a process that comes back with a new session, not to one that waits for its old one to be gone', async () => {
    const holder = await hold(here);
    const [{ writer: oldSession } = {}] = await writers();
    await query(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = '${APPLICATION}'`,
    );
    await holder.free();
    await leaveWriter(String(oldSession));
    const refused = hold(there).catch((error: unknown) => error);
    const again = await hold(here);
    const alive = setInterval(() => here.noteProgress(uploadId), 100);
    expect(await refused).to.include({ code: 'upload_locked' });
    clearInterval(alive);
    await assertHeld(here);
    await again.free();
  });

  it('are given up by a process that lives and stands as the writer by mistake: the answer to its last word was lost', async () => {
    const holder = await hold(here);
    const [{ writer: stillAlive } = {}] = await writers();
    await holder.free();
    await leaveWriter(String(stillAlive));
    expect(await msToLock(there)).to.be.below(3_000);
  });

  it('wait for a writer that cannot be seen from here, so that it notices that its session has gone', async () => {
    await leaveWriter('another-host/pid:[1] 1 0123456789abcdef 42');
    expect(await msToLock()).to.be.at.least(GRACE_MS);
  });

  it('do not wait for one whose process has ended', async () => {
    const [space, , random, key] = writersOfProcess()().name.split(' ');
    const endedPid = execFileSync(process.execPath, ['-e', 'console.log(process.pid)'], {
      encoding: 'utf8',
    }).trim();
    await leaveWriter(`${space} ${endedPid} ${random} ${key}`);
    expect(await msToLock()).to.be.below(GRACE_MS);
  });

  it('are given back before the process lets go of the database, and to nobody any more then', async () => {
    const holder = await hold(here);
    const closed = here.close();
    const refused = await hold(here).catch((error: unknown) => error);
    expect(refused).to.include({ code: 'upload_locked' });
    expect(await writers()).to.have.length(1);
    await holder.free();
    await closed;
    expect(await writers()).to.deep.equal([]);
  });

  async function leaveWriter(writer: string): Promise<void> {
    await query(`UPDATE ingest.upload SET writer = '${writer}'`);
  }

  async function msToLock(locks = here): Promise<number> {
    const startedMs = performance.now();
    await (await hold(locks)).free();
    return performance.now() - startedMs;
  }

  it('never let two in, whoever asks, in whatever order', async () => {
    let inside = 0;
    let most = 0;
    const once = async (locks: UploadLocks) => {
      const lock = locks.newLock(uploadId);
      await lock.lock(new AbortController().signal, () => {});
      inside += 1;
      most = Math.max(most, inside);
      await assertHeld(locks);
      await new Promise(setImmediate);
      inside -= 1;
      await lock.unlock();
    };
    await Promise.all(Array.from({ length: 60 }, (_, i) => once(i % 2 === 0 ? here : there)));
    expect(most).to.equal(1);
    expect(await writers()).to.deep.equal([]);
  });
});
