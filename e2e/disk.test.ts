import { createHash } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { type LoopDisk, makeLoopDisk } from './support/machine-faults.ts';
import { declareUpload } from './support/one-upload.ts';
import { waitFor } from './support/programs.ts';
import { writeScoreFile } from './support/score-file.ts';
import {
  type OwnPostgres,
  type Service,
  startOwnPostgres,
  startTestSystem,
  type TestSystem,
} from './support/test-system.ts';

const MIB = 1024 * 1024;
const SMALL_DISK_MIB = 128;
const LINES = 300_000;

/** Valid lines, so that the run can be published. */
async function scores(system: TestSystem, lines: number): Promise<Buffer> {
  const { path } = await writeScoreFile(join(system.workDir, 'scores.jsonl'), lines, lines);
  return readFile(path);
}

describe('A disk', function () {
  this.timeout(180_000);
  let disk: LoopDisk;
  let system: TestSystem;

  before(async function () {
    const made = await makeLoopDisk(SMALL_DISK_MIB);
    if (typeof made === 'string') {
      console.log(`      skipped: ${made}`);
      this.skip();
    }
    disk = made;
  });
  after(() => disk?.remove());

  describe('with the uploads', () => {
    let service: Service;
    beforeEach(async () => {
      system = await startTestSystem();
      await rm(join(disk.mountPoint, 'deep'), { recursive: true, force: true }); // another database's store by now
      service = await system.startService({
        env: { INGEST_DATA_DIR: join(disk.mountPoint, 'deep/uploads'), INGEST_MIN_FREE_BYTES: '0' },
      });
    });
    afterEach(() => system.stop());

    it('that loses its power keeps every byte that was acknowledged', async () => {
      const content = await scores(system, LINES);
      const upload = await declareUpload(service.url, system.token, 'power', content);
      let acknowledged = 0;
      for (const share of [0.1, 0.55, 1]) {
        const to = Math.floor(content.length * share);
        expect(await upload.patch(acknowledged, to)).to.include({ status: 204, code: undefined });
        acknowledged = to;
        const copy = await disk.afterPowerLoss();
        const found = await readFile(join(copy.mountPoint, 'deep/uploads', upload.id)).finally(copy.unmount);
        expect(found.length).to.be.at.least(acknowledged);
        expect(found.subarray(0, acknowledged).equals(content.subarray(0, acknowledged))).to.equal(true);
      }
    });

    it('that is full is answered with 507; everything continues when there is room again', async () => {
      const content = await scores(system, LINES);
      const upload = await declareUpload(service.url, system.token, 'full', content);
      expect((await upload.patch(0, MIB)).status).to.equal(204);
      await disk.fill(4 * MIB);
      const refused = await upload.patch(MIB);
      expect(refused).to.include({ status: 507, code: 'insufficient_storage' });
      expect(await upload.offset()).to.equal(MIB);
      await disk.makeRoom();
      expect((await upload.patch(MIB)).status).to.equal(204);
      const stored = await readFile(join(disk.mountPoint, 'deep/uploads', upload.id));
      expect(createHash('sha256').update(stored).digest('hex')).to.equal(upload.sha256);
    });
  });

  describe('of the database', () => {
    let postgres: OwnPostgres;
    before(async () => {
      postgres = await startOwnPostgres();
      system = await startTestSystem({ serverUrl: postgres.url });
    });
    after(async () => {
      await system?.stop();
      await postgres?.stop();
    });

    it('that is full in mid load costs nothing but time: the file is kept, and loaded when there is room', async () => {
      const folder = join(disk.mountPoint, 'tablespace');
      await mkdir(folder);
      await postgres.own(folder);
      await system.query(`CREATE TABLESPACE small LOCATION '${folder}'`);
      await system.query('GRANT CREATE ON TABLESPACE small TO ingest_loader');
      await system.query(`ALTER DATABASE postgres SET default_tablespace = small`);
      await disk.fill(8 * MIB);
      const service = await system.startService();
      system.startLoader();
      const upload = await declareUpload(service.url, system.token, 'r', await scores(system, LINES));
      expect((await upload.patch(0)).status).to.equal(204);
      const error = await waitFor(
        'the load to break off',
        async () => {
          const [attempt] = await system.query<{ error: string }>(
            `SELECT error FROM ingest.load_attempt WHERE outcome = 'retry'`,
          );
          return attempt?.error;
        },
        40_000,
      );
      expect(error).to.contain('No space left on device');
      await disk.makeRoom();
      await waitFor(
        'the run to be published',
        async () => {
          const rows = await system.query(`SELECT FROM ingest.run_revision WHERE state = 'published'`);
          return rows.length === 1;
        },
        40_000,
      );
      expect(await system.query('SELECT count(*)::int AS rows FROM scores.churn')).to.deep.equal([
        { rows: LINES },
      ]);
      await system.query('ALTER DATABASE postgres RESET default_tablespace');
    });
  });
});
