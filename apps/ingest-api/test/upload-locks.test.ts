import { randomBytes } from 'node:crypto';
import { expect } from 'chai';
import { clientConfig, migrateToLatest } from 'db-schema';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { UploadLocks } from '../src/store/upload-locks.ts';
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

  beforeEach(async () => {
    database = await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    });
    here = newLocks();
    there = newLocks();
    uploadId = randomBytes(16).toString('hex');
    lost.length = 0;
  });
  afterEach(async () => {
    await here.close();
    await there.close();
    await database.drop();
  });

  function newLocks(): UploadLocks {
    return new UploadLocks({
      clientConfig: clientConfig({
        databaseUrl: database.url,
        role: 'ingest_api',
        applicationName: APPLICATION,
      }),
      onSessionLost: (reason) => lost.push(reason),
    });
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

  const advisoryLocks = () =>
    query(
      `SELECT objid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
       WHERE locktype = 'advisory' AND d.datname = current_database()`,
    );

  it('are taken over within 3 s from a holder that brings nothing any more', async () => {
    const holder = await hold(here);
    const startedMs = performance.now();
    const next = await hold(there);
    expect(performance.now() - startedMs).to.be.within(1_000, 3_000);
    expect(holder.isAsked()).to.equal(true);
    await there.assertHeld(uploadId);
    await next.free();
    expect(await advisoryLocks()).to.deep.equal([]);
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
    await here.assertHeld(uploadId);
    await holder.free();
    await (await hold(there)).free();
  });

  it('pass on at once when they are given back in order', async () => {
    const holder = await hold(here);
    const alive = setInterval(() => here.noteProgress(uploadId), 100);
    const waiting = hold(there);
    await eventually(advisoryLocks, (locks) => locks.length === 1);
    const startedMs = performance.now();
    clearInterval(alive);
    await holder.free();
    await (await waiting).free();
    // Long before it would be asked for as stalled, or given up.
    expect(performance.now() - startedMs).to.be.lessThan(3_000);
  });

  it('are lost with their session: the holder is told to stop, may not write, and can lock again', async () => {
    const holder = await hold(here);
    await query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = '${APPLICATION}'`,
    );
    await eventually(async () => holder.isAsked(), Boolean);
    const refused = await here.assertHeld(uploadId).catch((error: unknown) => error);
    expect(refused).to.include({ code: 'database_unavailable' });
    expect(lost).to.have.length(1);
    await (await hold(here)).free();
  });

  it('never let two in, whoever asks, in whatever order', async () => {
    let inside = 0;
    let most = 0;
    const once = async (locks: UploadLocks) => {
      const lock = locks.newLock(uploadId);
      await lock.lock(new AbortController().signal, () => {});
      inside += 1;
      most = Math.max(most, inside);
      await locks.assertHeld(uploadId);
      await new Promise(setImmediate);
      inside -= 1;
      await lock.unlock();
    };
    await Promise.all(Array.from({ length: 60 }, (_, i) => once(i % 2 === 0 ? here : there)));
    expect(most).to.equal(1);
    expect(await advisoryLocks()).to.deep.equal([]);
  });
});
