import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import { testS3 } from 'local-s3';
import { removeFiles } from '../src/runs/expiry.ts';
import { folderStore } from '../src/store/folder.ts';
import { s3Store } from '../src/store/s3.ts';
import type { Store } from '../src/store/store.ts';
import { eventually, pushRun, scoreLines, startSystem, type TestSystem } from './support/system.ts';

const DAY_MS = 24 * 60 * 60 * 1000;
/** A connection that is silent for this long is cut, as by a service after 20 s. */
const SILENCE_MS = 500;

describe('the removal of files from a slow store', () => {
  let system: TestSystem;
  afterEach(() => system?.stop());

  const source = ['a', 'b'].map((name, i) => ({ name: `${name}.jsonl`, content: scoreLines(10, 10 * i) }));

  async function sweep(store: Store) {
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      silenceTimeoutMs: SILENCE_MS,
      onIdleError: () => {},
    });
    try {
      return await removeFiles(db, store, { keepFilesMs: DAY_MS, expireUploadsMs: DAY_MS });
    } finally {
      await db.destroy();
    }
  }

  /** Each call takes longer than the connection may be silent; `calls` are the removed objects or files of each. */
  function slow(store: Store, calls: number[], failsAtCall?: number): Store {
    return {
      ...store,
      async remove(uploads) {
        await delay(2 * SILENCE_MS);
        if (calls.length + 1 === failsAtCall) throw new Error('The store is not there.');
        calls.push(uploads.reduce((sum, { segments }) => sum + Math.max(1, segments.length), 0));
        await store.remove(uploads);
      },
    };
  }

  const left = () =>
    system.query<{ uploads: number; segments: number }>(
      `SELECT (SELECT count(*)::int FROM ingest.upload WHERE file_removed_at IS NULL) AS uploads,
              (SELECT count(*)::int FROM ingest.upload_segment) AS segments`,
    );

  it('is recorded batch after batch, so that a sweep that fails has not worked for nothing (bucket)', async function () {
    const s3 = await testS3();
    if (s3 === undefined) return this.skip();
    const location = s3.newLocation();
    system = await startSystem({ store: location });
    await pushRun(system, 'churn', 'r', source);
    await system.stopService();
    // With the two that were pushed: an upload of 2,500 objects among others, as 20 GB are.
    await system.query(
      `WITH more AS (
         INSERT INTO ingest.upload (upload_id, model, bytes, offset_bytes, created_by)
         SELECT md5(i::text), 'churn', 2500, 2500, 'tester' FROM generate_series(1, 20) i RETURNING upload_id)
       INSERT INTO ingest.upload_segment (upload_id, from_byte, bytes, object_key, crc32)
       SELECT upload_id, b, 1, 'uploads/' || upload_id || '/' || b, 0
       FROM more, generate_series(0, CASE WHEN upload_id = md5('1') THEN 2499 ELSE 9 END) b`,
    );
    await system.query('UPDATE ingest.upload SET removed_at = now()');
    const total = 2500 + 19 * 10 + 2;
    const calls: number[] = [];
    const fault = await sweep(slow(s3Store(location), calls, 3)).catch((error: Error) => error.message);
    expect(fault).to.equal('The store is not there.');
    expect(await left()).to.have.nested.property('[0].segments', total - 2_000);
    const { removedFiles } = await sweep(slow(s3Store(location), calls));
    expect(removedFiles).to.be.greaterThan(0);
    expect(await left()).to.deep.equal([{ uploads: 0, segments: 0 }]);
    expect(calls).to.deep.equal([1_000, 1_000, total - 2_000]);
    const folder = path.join(s3.bucketDir, location.prefix, 'uploads');
    const objects = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    expect(objects.filter((entry) => entry.isFile())).to.deep.equal([]);
  });

  it('is recorded batch after batch, so that a sweep that fails has not worked for nothing (folder)', async () => {
    system = await startSystem();
    await pushRun(system, 'churn', 'r', source);
    await system.stopService();
    await system.query(
      `INSERT INTO ingest.upload (upload_id, model, bytes, offset_bytes, created_by)
       SELECT md5(i::text), 'churn', 10, 10, 'tester' FROM generate_series(1, 1500) i`,
    );
    await system.query('UPDATE ingest.upload SET removed_at = now()');
    const store = folderStore(system.dataDir);
    const calls: number[] = [];
    const fault = await sweep(slow(store, calls, 2)).catch((error: Error) => error.message);
    expect(fault).to.equal('The store is not there.');
    expect(await left()).to.deep.equal([{ uploads: 502, segments: 0 }]);
    expect((await sweep(slow(store, calls))).removedFiles).to.equal(502);
    expect(calls).to.deep.equal([1_000, 502]);
    expect(await readdir(system.dataDir)).to.deep.equal(['store.json']);
  });

  it('and every other step of the sweep are done although one of them fails, whichever that is', async () => {
    system = await startSystem();
    await pushRun(system, 'churn', 'r', source);
    const tables = ['writer', 'session', 'tally'] as const;
    /** What each step has not done yet, unless its table is gone. */
    const open = {
      writer: 'SELECT FROM ingest.upload WHERE removed_at IS NOT NULL AND file_removed_at IS NULL',
      session: 'SELECT FROM ingest.session WHERE expires_at < now()',
      tally: `SELECT FROM ingest.tally WHERE name = 'test' GROUP BY name, label HAVING count(*) > 1`,
    };
    for (const broken of tables) {
      await system.stopService();
      await system.query(`
        UPDATE ingest.upload SET removed_at = now(), file_removed_at = NULL;
        INSERT INTO ingest.session (session_sha256, token_id, expires_at)
          SELECT sha256('${broken}'), token_id, now() - interval '1 hour' FROM ingest.api_token LIMIT 1;
        INSERT INTO ingest.tally (name, label, model, amount) VALUES ('test', NULL, NULL, 1), ('test', NULL, NULL, 1);
        ALTER TABLE ingest.${broken} RENAME TO away`);
      await system.startService();
      for (const table of tables) {
        if (table === broken) continue;
        await eventually(
          () => system.query(open[table]),
          (rows) => rows.length === 0,
        );
      }
      await system.query(`ALTER TABLE ingest.away RENAME TO ${broken}`);
    }
  });
});
