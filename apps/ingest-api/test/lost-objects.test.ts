import { expect } from 'chai';
import { testS3 } from 'local-s3';
import type { BucketLocation } from '../src/store/open.ts';
import { s3Store } from '../src/store/s3.ts';
import type { Segment } from '../src/store/store.ts';
import {
  eventually,
  getRun,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const FILES = 7;
const LOST = 6;
/** The loader is sure after a second or two that an object is missing, so all of them take longer than it may stall. */
const STALL_MS = 4_000;
const DEADLINE_MS = 40_000;

describe('objects that the bucket has lost', () => {
  let location: BucketLocation;
  let system: TestSystem;

  before(async function () {
    const s3 = await testS3();
    if (s3 === undefined) return this.skip();
    location = s3.newLocation();
    system = await startSystem({ store: location });
  });
  after(() => system?.stop());

  it('are all recorded by one load, however many they are, and only they are sent again', async () => {
    const files = Array.from({ length: FILES }, (_, i) => ({
      name: `part-${i}.jsonl`,
      content: scoreLines(50, 1 + 50 * i),
    }));
    await pushRun(system, 'lossy', 'r', files);
    const segments = await system.query<Segment>(
      `SELECT s.from_byte AS "fromByte", s.bytes, s.object_key AS key, s.crc32
       FROM ingest.upload_segment s JOIN ingest.run_file f USING (upload_id) ORDER BY f.name LIMIT ${LOST}`,
    );
    await s3Store(location).discard({ uploadId: '', fileName: '', segments });
    const loader = system.startLoader({ store: location, stallTimeoutMs: STALL_MS });
    try {
      const waiting = await eventually(
        () => getRun(system, 'lossy', 'r'),
        ({ state }) => state === 'receiving',
        DEADLINE_MS,
      );
      expect(waiting.load).to.include({ attempt: 1, outcome: 'retry' });
      expect(waiting.missing.files.map(({ name, offset }) => ({ name, offset }))).to.deep.equal(
        files.slice(0, LOST).map(({ name }) => ({ name, offset: 0 })),
      );
      await pushRun(system, 'lossy', 'r', files);
      expect(await untilFinal(system, 'lossy', 'r', DEADLINE_MS)).to.include({
        state: 'published',
        rows: 50 * FILES,
      });
    } finally {
      await loader.stop();
    }
  });
});
