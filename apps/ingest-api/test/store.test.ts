import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { testS3 } from 'local-s3';
import { TIMING } from '../src/store/bucket.ts';
import { folderStore } from '../src/store/folder.ts';
import { s3Store } from '../src/store/s3.ts';
import { BytesMissing, type Segment, type Store, type StoredUpload } from '../src/store/store.ts';

interface TestStore {
  readonly store: Store;
  /** Another process's view of the same store. */
  reopen(): Store;
  stop(): Promise<void>;
}

const STORES: Readonly<Record<string, () => Promise<TestStore | undefined>>> = {
  'a folder': async () => {
    const dataDir = await mkdtemp(path.join(tmpdir(), 'store-'));
    const open = () => folderStore(path.join(dataDir, 'uploads'));
    return { store: open(), reopen: open, stop: () => rm(dataDir, { recursive: true }) };
  },
  'a bucket': async () => {
    const s3 = await testS3();
    if (s3 === undefined) return undefined;
    const location = s3.newLocation();
    const open = () => s3Store(location, { ...TIMING, againAfterMs: 5 });
    return { store: open(), reopen: open, stop: async () => {} };
  },
};

/** An upload with its record, as PostgreSQL would keep it. */
class Upload implements StoredUpload {
  readonly uploadId = randomBytes(16).toString('hex');
  fileName = this.uploadId;
  segments: readonly Segment[] = [];
  offsetBytes = 0;
  readonly content: Buffer;

  constructor(sizeBytes: number) {
    this.content = randomBytes(sizeBytes);
  }

  /** Sends the bytes from the recorded offset to `toByte`, in pieces; records what the store calls durable. */
  async send(
    store: Store,
    toByte: number,
    { mayWrite = async () => {}, pieceBytes = 300_000, isCut = false } = {},
  ): Promise<number> {
    const { content, uploadId, fileName, offsetBytes } = this;
    const createdAt = new Date();
    return store.write({
      upload: { uploadId, fileName, offsetBytes, sizeBytes: content.byteLength, createdAt },
      offsetBytes,
      pieces: piecesOf(content.subarray(offsetBytes, toByte), pieceBytes, isCut),
      mayWrite,
      onDurable: async (durableBytes, segment) => {
        this.offsetBytes = durableBytes;
        if (segment !== undefined) this.segments = [...this.segments, segment];
      },
    });
  }

  async storedIn(store: Store): Promise<string> {
    const hash = createHash('sha256');
    for await (const chunk of store.read(this)) hash.update(chunk);
    return hash.digest('hex');
  }

  sha256(toByte = this.content.byteLength): string {
    return createHash('sha256').update(this.content.subarray(0, toByte)).digest('hex');
  }
}

async function* piecesOf(bytes: Buffer, pieceBytes: number, isCut: boolean): AsyncGenerator<Buffer[]> {
  for (let start = 0; start < bytes.byteLength; start += pieceBytes) {
    const piece = Buffer.from(bytes.subarray(start, start + pieceBytes)); // the store frees it
    yield [piece.subarray(0, 1), piece.subarray(1)];
  }
  if (isCut) throw new Error('the client is gone');
}

for (const [name, start] of Object.entries(STORES)) {
  describe(`the store in ${name}`, () => {
    let test: TestStore;
    let store: Store;

    before(async function () {
      const started = await start();
      if (started === undefined) return this.skip();
      test = started;
      store = test.store;
      expect(await store.prepare(1)).to.deep.equal([]);
    });
    after(() => test?.stop());

    it('has a marker once it has been written, the last one, for every process', async () => {
      expect(await store.readMarker()).to.equal(undefined);
      for (const generation of [1, 2]) await store.writeMarker({ storeId: 'this one', generation });
      expect(await test.reopen().readMarker()).to.deep.equal({ storeId: 'this one', generation: 2 });
    });

    for (const sizeBytes of [1, 4_000_000, 20_000_000]) {
      it(`keeps an upload of ${sizeBytes} bytes, sent in parts of any size, for every process`, async () => {
        const upload = new Upload(sizeBytes);
        for (const part of [1 / 7, 1 / 3, 1]) {
          const toByte = Math.ceil(sizeBytes * part);
          expect(await upload.send(store, toByte)).to.equal(toByte);
          expect(await store.durableBytes(upload)).to.equal(toByte);
        }
        expect(upload.offsetBytes).to.equal(sizeBytes);
        expect(await upload.storedIn(test.reopen())).to.equal(upload.sha256());
        expect(await store.maybeShort([upload])).to.deep.equal([]);
      });
    }

    it('calls nothing durable that it has not written, when the client is cut, and continues there', async () => {
      const upload = new Upload(3_000_000);
      const error = await upload.send(store, 2_000_000, { isCut: true }).catch((reason: Error) => reason);
      expect(error).to.have.property('message', 'the client is gone');
      expect(await store.durableBytes(upload)).to.be.at.least(upload.offsetBytes);
      await upload.send(store, 3_000_000);
      expect(await upload.storedIn(store)).to.equal(upload.sha256());
    });

    it('writes nothing more once it may not', async () => {
      const upload = new Upload(2_000_000);
      let asked = 0;
      const mayWrite = async () => {
        asked += 1;
        if (asked > 3) throw new Error('the lock is lost');
      };
      const error = await upload.send(store, 2_000_000, { mayWrite }).catch((reason: Error) => reason);
      expect(error).to.have.property('message', 'the lock is lost');
      expect(upload.offsetBytes).to.be.below(2_000_000);
    });

    it('keeps late bytes of a frozen writer out of an upload that another one has taken over', async () => {
      const upload = new Upload(1_000_000);
      await upload.send(store, 400_000);
      const frozen = new Upload(1_000_000);
      Object.assign(frozen, { uploadId: upload.uploadId, fileName: upload.fileName, offsetBytes: 400_000 });
      const createdAt = new Date();
      const record = { ...upload, sizeBytes: 1_000_000, createdAt };
      upload.fileName = await store.takeOver({ ...record, uploadId: upload.uploadId });
      await upload.send(store, 700_000);
      await frozen.send(store, 1_000_000);
      await upload.send(store, 1_000_000);
      expect(await upload.storedIn(store)).to.equal(upload.sha256());
    });

    it('removes uploads, and is asked to remove them again without an error', async () => {
      const [removed, kept, discarded] = [new Upload(50_000), new Upload(50_000), new Upload(50_000)];
      for (const upload of [removed, kept, discarded]) await upload.send(store, 50_000);
      for (const _ of [1, 2]) {
        await store.remove([removed]);
        await store.discard(discarded);
      }
      expect(await store.durableBytes(removed)).to.equal(0);
      expect(await store.durableBytes(discarded)).to.equal(0);
      expect(await kept.storedIn(store)).to.equal(kept.sha256());
    });

    it('says that bytes are missing, and how many there are, only while it has its marker', async () => {
      const upload = new Upload(1_000_000);
      await upload.send(store, 1_000_000);
      await store.remove([upload]);
      const marker = { storeId: 'this one', generation: 2 };
      await store.writeMarker(marker);
      store.expectMarker(marker);
      await store.probe();
      expect(await upload.storedIn(store).catch((reason: unknown) => reason)).to.be.instanceOf(BytesMissing);
      await store.writeMarker({ storeId: 'another one', generation: 9 });
      for (const ask of [
        () => store.probe(),
        () => upload.storedIn(store),
        () => store.durableBytes(upload),
      ]) {
        const fault = await ask().catch((reason: unknown) => reason);
        expect(fault).to.have.property('code', 'storage_fault');
        expect((fault as Error).message).to.contain('another one');
      }
      await store.writeMarker(marker);
    });
  });
}

describe('the folder of the store', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'score-ingest-store-'));
    await mkdir(path.join(dir, 'there'));
    await writeFile(path.join(dir, 'file'), '');
    await symlink('there', path.join(dir, 'link'));
    await symlink('nowhere', path.join(dir, 'broken'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it('is created with its parents, unless it is there', async () => {
    for (const name of ['there', 'link', 'new', 'new/', 'a/b/c', 'link/d/e', `../${path.basename(dir)}`]) {
      const folder = `${dir}/${name}`;
      expect(await folderStore(folder).prepare(), name).to.deep.equal([]);
      expect(await readdir(folder), name).to.be.an('array');
    }
  });

  it('is created by several programs that start together', async () => {
    for (let start = 0; start < 100; start += 1) {
      const folder = path.join(dir, 'together', String(start), 'a/b/uploads');
      await Promise.all(Array.from({ length: 8 }, () => folderStore(folder).prepare()));
    }
  });

  it('is refused by its name where it cannot be created, and does not hang', async () => {
    const bad = ['file', 'file/x', 'broken', 'broken/x'].map((name) => path.join(dir, name));
    for (const folder of [...bad, '/proc/x', '/proc/x/y/z', '/dev/null/x', `${dir}/${'x'.repeat(300)}`]) {
      const fault = await folderStore(folder)
        .prepare()
        .catch((reason: Error) => reason.message);
      expect(fault, folder).to.match(
        /^The store's folder \S+ cannot be created: E[A-Z]+: .* Name another one, or create it for the user of this process\.$/,
      );
      expect(fault).to.contain(folder);
    }
  });
});
