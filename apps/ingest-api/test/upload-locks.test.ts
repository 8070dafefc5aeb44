import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { migrateToLatest, openDatabase } from 'db-schema';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import pg from 'pg';
import { uploadRecords } from '../src/runs/uploads.ts';
import { UploadLocks, type UploadRecords } from '../src/store/claims.ts';
import { folderStore } from '../src/store/folder.ts';
import { GONE_AFTER_MS, writersOfProcess } from '../src/store/writers.ts';
import { eventually } from './support/system.ts';

const APPLICATION = 'locks';

/** Each `UploadLocks` represents another process: they share nothing but the database. */
describe('the locks of uploads, in two processes', () => {
  let database: TestDatabase;
  let dataDir: string;
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
    dataDir = await mkdtemp(path.join(tmpdir(), 'ingest-locks-'));
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
    await rm(dataDir, { recursive: true, force: true });
  });

  function newLocks(changed: (records: UploadRecords) => UploadRecords = (records) => records): UploadLocks {
    const connect = { databaseUrl: database.url, role: 'ingest_api' } as const;
    const { db } = openDatabase({
      ...connect,
      applicationName: 'records',
      maxConnections: 3,
      onIdleError: () => {},
    });
    const locks = new UploadLocks({
      store: folderStore(dataDir),
      connection: { ...connect, applicationName: APPLICATION },
      records: changed(uploadRecords(db)),
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
    // Long before it would be asked for as stalled, or cancelled.
    expect(performance.now() - startedMs).to.be.lessThan(3_000);
  });

  it('are lost with their session: the holder is asked to stop, may not write, and can lock again', async () => {
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

  it('are given to a process that returns with a new session, not to one that waits for its old one to be gone', async () => {
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

  /** The first statement of this kind fails: before PostgreSQL has it, or after PostgreSQL has carried it out. */
  function losesFirst(kind: 'claim' | 'release', when: 'before' | 'after') {
    let isLost = false;
    return (records: UploadRecords): UploadRecords => {
      const lose = async <T>(carryOut: () => Promise<T>): Promise<T> => {
        if (isLost) return carryOut();
        isLost = true;
        if (when === 'after') await carryOut();
        throw new Error('Connection terminated unexpectedly');
      };
      if (kind === 'claim') return { ...records, claim: (...args) => lose(() => records.claim(...args)) };
      return { ...records, release: (...args) => lose(() => records.release(...args)) };
    };
  }

  for (const [kind, when] of [
    ['claim', 'after'],
    ['claim', 'before'],
    ['release', 'before'],
    ['release', 'after'],
  ] as const)
    it(`are released by a process that is alive and may be recorded as the writer: its ${kind} failed ${when} PostgreSQL had it`, async () => {
      const losing = newLocks(losesFirst(kind, when));
      await hold(losing).then(
        (holder) => holder.free(),
        () => {},
      );
      expect(await msToLock(there)).to.be.below(3_000);
    });

  it('cost a process no statement when others ask for what it does not write, as every login of the database may', async () => {
    let released = 0;
    const asked = newLocks((records) => ({
      ...records,
      release: (...args) => {
        released += 1;
        return records.release(...args);
      },
    }));
    const holder = await hold(asked); // it listens from now on
    await query(
      `SELECT pg_notify('ingest_upload_lock', 'wanted ' || md5(n::text)) FROM generate_series(1, 10000) n`,
    );
    const next = await hold(there); // its notification arrives after those
    expect(holder.isAsked()).to.equal(true);
    expect(released).to.equal(1);
    await next.free();
  });

  const ELSEWHERE = 'another-host/pid:[1] 1 0123456789abcdef 1';

  /** Of a writer that cannot be seen from here; its last beat was that long ago. */
  async function beat(agoMs: number): Promise<void> {
    await query(
      `INSERT INTO ingest.writer VALUES ('${ELSEWHERE}', clock_timestamp() - ${agoMs} * interval '1 ms')
       ON CONFLICT (writer) DO UPDATE SET beat_at = excluded.beat_at`,
    );
  }

  it('stay with a writer that cannot be seen from here for as long as it beats, and are free soon after', async () => {
    await leaveWriter(ELSEWHERE);
    await beat(0);
    const ended = new AbortController();
    const beating = (async () => {
      while (!ended.signal.aborted) {
        await beat(0);
        await delay(500, undefined, { signal: ended.signal }).catch(() => {});
      }
    })();
    const refused = await hold(here).catch((error: unknown) => error);
    ended.abort();
    await beating;
    expect(refused).to.include({ code: 'upload_locked' });
    await beat(GONE_AFTER_MS - 1_000);
    expect(await msToLock()).to.be.within(500, 4_000);
    expect(await query(`SELECT writer FROM ingest.writer WHERE writer = '${ELSEWHERE}'`)).to.deep.equal([]);
  });

  it('leave the file to a writer that may only be frozen, and continue in another one with what it acknowledged', async () => {
    await query(`UPDATE ingest.upload SET offset_bytes = 40`);
    const first = path.join(dataDir, uploadId);
    await writeFile(first, 'a'.repeat(60)); // 20 bytes that were not acknowledged
    const frozen = await open(first, 'r+');
    await leaveWriter(ELSEWHERE);
    await beat(GONE_AFTER_MS + 1_000);
    expect(await msToLock()).to.be.below(2_000);
    await frozen.write('b'.repeat(60), 0);
    await frozen.close();
    const files = await readdir(dataDir);
    expect(files).to.have.length(1).and.not.include(uploadId);
    expect(await readFile(path.join(dataDir, files[0] ?? ''), 'utf8')).to.equal('a'.repeat(40));
    expect(await query('SELECT file FROM ingest.upload')).to.deep.equal([{ file: files[0] }]);
  });

  it('refuse to continue without the bytes that were acknowledged', async () => {
    await query(`UPDATE ingest.upload SET offset_bytes = 40`);
    await writeFile(path.join(dataDir, uploadId), 'a'.repeat(30));
    await leaveWriter(ELSEWHERE);
    const refused = await hold(here).catch((error: unknown) => error);
    expect(refused).to.include({ code: 'offset_conflict' });
    expect(await readdir(dataDir)).to.deep.equal([uploadId]);
  });

  it('are lost by a process that others have taken for gone: it writes no more, and can lock again', async () => {
    const holder = await hold(here);
    const [{ writer } = {}] = await writers();
    await query(`DELETE FROM ingest.writer WHERE writer = '${writer}'`);
    await eventually(async () => holder.isAsked(), Boolean);
    await (await hold(here)).free();
  });

  it('do not wait for one whose process has ended', async () => {
    const [space, , random, session] = writersOfProcess()().split(' ');
    const endedPid = execFileSync(process.execPath, ['-e', 'console.log(process.pid)'], {
      encoding: 'utf8',
    }).trim();
    const ended = `${space} ${endedPid} ${random} ${session}`;
    await leaveWriter(ended);
    await query(`INSERT INTO ingest.writer (writer) VALUES ('${ended}')`);
    expect(await msToLock()).to.be.below(2_000);
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
