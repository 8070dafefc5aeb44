import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'chai';
import { type Database, openDatabase } from 'db-schema';
import type { Kysely } from 'kysely';
import { type RunningS3, testS3 } from 'local-s3';
import { renewStore } from '../src/runs/store-identity.ts';
import { moveStore } from '../src/runs/store-move.ts';
import { folderStore } from '../src/store/folder.ts';
import { s3Store } from '../src/store/s3.ts';
import type { Store } from '../src/store/store.ts';
import {
  declare,
  getRun,
  listFiles,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

describe('moving the store', () => {
  let s3: RunningS3;
  let system: TestSystem;
  const ends: (() => Promise<void>)[] = [];

  before(async function () {
    const started = await testS3();
    if (started === undefined) return this.skip();
    s3 = started;
  });
  beforeEach(async () => {
    system = await startSystem();
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
    await system.stop();
  });

  const half = { name: 'half.jsonl', content: scoreLines(200_000) };

  /** A complete run that waits for a loader, and one that is half sent. */
  async function sendSome(): Promise<void> {
    await pushRun(system, 'churn', '2026-10', [
      { name: 'a.jsonl', content: scoreLines(9, 1) },
      { name: 'b.jsonl', content: scoreLines(9, 100) },
    ]);
    const declared = await declare(system, 'churn', '2026-11', [half]);
    const content = Buffer.from(half.content);
    const [file] = declared.missing.files;
    await patch(system, file?.uploadUrl ?? '', 0, content.subarray(0, content.length / 2));
  }

  function database(): Kysely<Database> {
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'ingest-api store',
      maxConnections: 1,
      onIdleError: () => {},
    });
    ends.push(() => db.destroy());
    return db;
  }

  const move = (db: Kysely<Database>, from: Store, to: Store) =>
    moveStore(db, { from, to }, 'tester', () => {});
  const failureOf = (work: Promise<unknown>) =>
    work.then(
      () => 'nothing',
      (error: Error) => error.message,
    );

  async function finishBothRuns(location: ReturnType<RunningS3['newLocation']> | undefined): Promise<void> {
    const store = location ?? ({ kind: 'folder', path: system.dataDir } as const);
    await system.startService({ store });
    const loader = system.startLoader({ store });
    await untilFinal(system, 'churn', '2026-10');
    const [file] = await listFiles(system, 'churn', '2026-11');
    const content = Buffer.from(half.content);
    expect(file?.offset).to.equal(Math.floor(content.length / 2));
    await patch(system, file?.uploadUrl ?? '', file?.offset ?? 0, content.subarray(file?.offset));
    await untilFinal(system, 'churn', '2026-11');
    expect((await getRun(system, 'churn', '2026-11')).rows).to.equal(200_000);
    await loader.stop();
  }

  it('from a folder to a bucket and back keeps every byte, and the runs continue there', async () => {
    const location = s3.newLocation();
    const [folder, bucket] = [folderStore(system.dataDir), s3Store(location)];
    await sendSome();
    await system.stopService();
    const db = database();
    expect(await move(db, folder, bucket)).to.include({
      copiedUploads: 3,
      presentUploads: 0,
      wasMoved: false,
    });
    expect(await move(db, folder, bucket), 'a second time').to.include({ wasMoved: true });
    await finishBothRuns(location);
    expect(await readdir(system.dataDir), 'the old store keeps its files').to.have.length(4);

    await system.stopService();
    const empty = path.join(system.dataDir, 'new');
    const back = folderStore(empty);
    await back.prepare();
    const { bytes } = await move(db, bucket, back);
    const sizes = await Promise.all(
      (await readdir(empty))
        .filter((name) => name !== 'store.json')
        .map((name) => stat(path.join(empty, name))),
    );
    expect(sizes.reduce((sum, { size }) => sum + size, 0)).to.equal(bytes);
  });

  it('continues after a crash with what is not copied yet', async () => {
    const [folder, bucket] = [folderStore(system.dataDir), s3Store(s3.newLocation())];
    await sendSome();
    await system.stopService();
    const db = database();
    let writes = 0;
    const dies: Store = {
      ...bucket,
      write: (write) => {
        writes += 1;
        return writes === 3 ? Promise.reject(new Error('killed')) : bucket.write(write);
      },
    };
    expect(await failureOf(move(db, folder, dies))).to.equal('killed');
    const diesLast: Store = {
      ...bucket,
      writeMarker: async (marker) => {
        await bucket.writeMarker(marker);
        throw new Error('killed before the commit');
      },
    };
    expect(await failureOf(move(db, folder, diesLast))).to.equal('killed before the commit');
    expect(await move(db, folder, bucket)).to.include({ copiedUploads: 0, presentUploads: 3 });
  });

  it('is refused beside a service, onto the same store, onto the store of another database, and after a service ran', async () => {
    const [folder, bucket] = [folderStore(system.dataDir), s3Store(s3.newLocation())];
    await sendSome();
    const db = database();
    expect(await failureOf(move(db, folder, bucket))).to.contain('ingest-api serve is connected');
    await system.stopService();
    expect(await failureOf(move(db, folder, folderStore(system.dataDir)))).to.contain('the same store');
    const others = s3Store(s3.newLocation());
    await others.writeMarker({ storeId: 'of another database', generation: 1 });
    expect(await failureOf(move(db, folder, others))).to.contain('is store of another database already');
    const isBusy: Store = {
      ...bucket,
      write: async (write) => {
        await renewStore(db, folder);
        return bucket.write(write);
      },
    };
    expect(await failureOf(move(db, folder, isBusy))).to.contain('A service has run');
    expect(await move(db, bucket, folder), 'nothing was switched').to.include({ wasMoved: true });
  });
});
