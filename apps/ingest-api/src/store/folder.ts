import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import {
  copyFile,
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  stat,
  statfs,
  unlink,
  utimes,
} from 'node:fs/promises';
import path from 'node:path';
import { IngestError, isDatabaseUnavailable } from '../errors.ts';
import { BytesMissing, type Gathering, type Marker, type Store, type UploadRecord } from './store.ts';
import { writeDurably } from './write.ts';

/** Larger pieces gain nothing: the bytes of several pieces share one sync. */
const GATHERING: Gathering = {
  mostBytes: 1024 * 1024,
  leastBytes: 128 * 1024,
  sharedBytes: 32 * 1024 * 1024,
  longestMs: 250,
};
const CHUNK_BYTES = 1024 * 1024;

/** Keeps the bytes of uploads in a folder: one file per upload, synced before it is acknowledged. For one host, or a shared disk. */
export function folderStore(dataDir: string): Store {
  const folder = new Folder(dataDir);
  return {
    name: dataDir,
    gathering: GATHERING,

    async prepare() {
      await makeFolder(dataDir).catch((fault: Error) => {
        const what = `The store's folder ${dataDir} cannot be created: ${fault.message}.`;
        throw new Error(`${what} Name another one, or create it for the user of this process.`);
      });
      return [];
    },

    async write({ upload, offsetBytes, pieces, mayWrite, onDurable }) {
      let isNamed = offsetBytes > 0;
      let file: FileHandle | undefined;
      try {
        await mayWrite();
        file = await folder.openForWriting(upload.fileName, offsetBytes);
        return await writeDurably({
          file,
          pieces,
          offsetBytes,
          mayWrite,
          onDurable: async (durableBytes) => {
            // The name of a new file is synced after its bytes: most file systems have written it with them.
            if (!isNamed) await syncFolder(dataDir);
            isNamed = true;
            await onDurable(durableBytes);
          },
        });
      } catch (error) {
        throw toDiskFault(error, upload.uploadId);
      } finally {
        await file?.close();
      }
    },

    async *read({ uploadId, fileName }) {
      try {
        yield* folder.read(fileName);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw toDiskFault(error, uploadId);
        await folder.assertIsThere();
        throw new BytesMissing(`The file of upload ${uploadId} is missing.`, { cause: error });
      }
    },

    durableBytes: ({ uploadId, fileName }) => asDiskFault(uploadId, () => folder.storedBytes(fileName)),

    async maybeShort(uploads) {
      const areShort = await Promise.all(
        uploads.map(({ uploadId, fileName, offsetBytes }) =>
          asDiskFault(uploadId, () => folder.isShorterThan(fileName, offsetBytes)),
        ),
      );
      return uploads.filter((_, i) => areShort[i]);
    },

    newFileName,

    takeOver: (upload) => asDiskFault(upload.uploadId, () => folder.copyAcknowledged(upload)),

    discard: ({ uploadId, fileName }) => asDiskFault(uploadId, () => folder.remove(fileName)),

    async remove(uploads) {
      if (uploads.length === 0) return;
      const ids = new Set(uploads.map(({ uploadId }) => uploadId));
      // By id: a killed writer may have left a copy behind.
      for (const name of await readdir(dataDir))
        if (FILE_NAME.test(name) && ids.has(name.slice(0, 32))) await folder.remove(name);
    },

    async probe() {
      await folder.assertIsThere();
      const now = new Date();
      await utimes(dataDir, now, now);
      await syncFolder(dataDir);
    },

    /** What an unprivileged user may still write. */
    async freeBytes() {
      try {
        const { bavail, bsize } = await statfs(dataDir);
        return bavail * bsize;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') await folder.assertIsThere();
        throw new IngestError('storage_fault', `The free bytes of the disk at ${dataDir} cannot be read.`, {
          cause: error,
        });
      }
    },

    readMarker: () => folder.readMarker(),
    writeMarker: (marker) => folder.writeMarker(marker),
    expectMarker: (marker) => {
      folder.expected = marker;
    },
    // A file has the id of its upload in its name, and is removed with it.
    /** The only ones that a folder can have: drafts of the marker, of processes that were killed before the renaming. */
    async removeOrphans() {
      const names = (await readdir(dataDir)).filter((name) => name.startsWith(`${MARKER}.`));
      let removed = 0;
      for (const draft of names.map((name) => path.join(dataDir, name))) {
        const found = await stat(draft).catch(missing);
        if (found === undefined || found.mtimeMs > Date.now() - ORPHAN_AFTER_MS) continue;
        await unlink(draft).catch(missing);
        removed += 1;
      }
      return removed;
    },
  };
}

/**
 * Creates the folder of the uploads, for its owner only, so that it exists after a power failure too. Without the `recursive`
 * of mkdir: it never returns where a parent exists and takes no folders (/proc).
 */
async function makeFolder(dataDir: string, isLastTry = false): Promise<void> {
  const parent = path.dirname(path.resolve(dataDir));
  try {
    await mkdir(dataDir, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && (await isFolder(dataDir))) return;
    if (code !== 'ENOENT' || isLastTry) throw error;
    if (!(await isFolder(parent))) await makeFolder(parent); // else another process has just created it, perhaps
    return makeFolder(dataDir, true);
  }
  await syncFolder(parent);
}

async function isFolder(name: string): Promise<boolean> {
  return (await stat(name).catch(missing))?.isDirectory() ?? false;
}

/** Syncs the entries of a folder: names that were created, renamed or removed. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Never the name of an upload. */
const MARKER = 'store.json';
const ORPHAN_AFTER_MS = 24 * 60 * 60 * 1000;
/** The file of an upload is named by its id; one that no other writer may know (`newFileName`) has a suffix. No other name becomes a path. */
const FILE_NAME = /^[0-9a-f]{32}(\.[0-9a-f]{16})?$/;

function newFileName(uploadId: string): string {
  return `${uploadId}.${randomBytes(8).toString('hex')}`;
}

class Folder {
  /** What this process found the folder to be when it opened it. */
  expected: Marker | undefined;
  readonly #dataDir: string;

  constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  /**
   * Opens an upload's file to write at `offsetBytes`. Bytes behind that offset were never acknowledged (a crash, or a failed
   * sync) and are cut off. A file that is created here is not safe until its folder is synced.
   *
   * @throws an `offset_conflict` when the file is missing or short: the client's HEAD then sets the offset back.
   */
  async openForWriting(fileName: string, offsetBytes: number): Promise<FileHandle> {
    const created = offsetBytes === 0 ? constants.O_CREAT | constants.O_TRUNC : 0;
    if (created) await this.assertIsThere(); // else the file would be created under the mount point of a missing disk
    const file = await open(this.#pathOf(fileName), constants.O_RDWR | created, 0o600).catch(missing);
    if (file === undefined) {
      await this.assertIsThere();
      throw bytesAreLost(0, offsetBytes);
    }
    if (created) return file;
    try {
      const { size } = await file.stat();
      if (size < offsetBytes) throw bytesAreLost(size, offsetBytes);
      if (size > offsetBytes) await file.truncate(offsetBytes);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** In chunks of 1 MiB, with two buffers that take turns. */
  async *read(fileName: string): AsyncGenerator<Buffer> {
    const file = await open(this.#pathOf(fileName), 'r');
    try {
      const buffers: [Buffer, Buffer] = [
        Buffer.allocUnsafeSlow(CHUNK_BYTES),
        Buffer.allocUnsafeSlow(CHUNK_BYTES),
      ];
      let turn: 0 | 1 = 0;
      let reading = readInto(file, buffers[turn]);
      for (;;) {
        const chunk = await reading;
        if (chunk.byteLength === 0) return;
        turn = turn === 0 ? 1 : 0;
        reading = readInto(file, buffers[turn]);
        reading.catch(() => {}); // awaited in the next round
        yield chunk;
      }
    } finally {
      await file.close();
    }
  }

  /**
   * The size of an upload's file; 0 when the file does not exist. Read from the open file: a network file system may report
   * an old size for the name.
   */
  async storedBytes(fileName: string): Promise<number> {
    const file = await open(this.#pathOf(fileName), 'r').catch(missing);
    await this.assertIsThere();
    if (file === undefined) return 0;
    try {
      return (await file.stat()).size;
    } finally {
      await file.close();
    }
  }

  /** Cheap; `storedBytes` decides. */
  async isShorterThan(fileName: string, bytes: number): Promise<boolean> {
    if (bytes === 0) return false; // the file need not exist
    const found = await stat(this.#pathOf(fileName)).catch(missing);
    return found === undefined || found.size < bytes;
  }

  /**
   * Makes a second file of an upload, with its acknowledged bytes: what a frozen writer still writes goes to the first file,
   * which nobody reads any more. The name is random, because a writer that takes over may freeze too. The copy costs
   * nothing where the file system can share blocks.
   *
   * @returns the name of the file, which holds `offsetBytes` synced bytes. With an offset of 0 no file is created.
   */
  async copyAcknowledged({ uploadId, fileName, offsetBytes }: UploadRecord): Promise<string> {
    const copyName = newFileName(uploadId);
    if (offsetBytes === 0) return copyName;
    const copyPath = this.#pathOf(copyName);
    try {
      await copyFile(this.#pathOf(fileName), copyPath, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
      const copy = await this.openForWriting(copyName, offsetBytes);
      try {
        await copy.datasync();
      } finally {
        await copy.close();
      }
      await syncFolder(this.#dataDir);
      return copyName;
    } catch (error) {
      await unlink(copyPath).catch(() => {});
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      await this.assertIsThere();
      throw bytesAreLost(0, offsetBytes);
    }
  }

  async remove(fileName: string): Promise<void> {
    await unlink(this.#pathOf(fileName)).catch(missing);
  }

  /** @throws a `storage_fault` for a file that is no marker. */
  async readMarker(): Promise<Marker | undefined> {
    const file = path.join(this.#dataDir, MARKER);
    const text = await readFile(file, 'utf8').catch(missing);
    return text === undefined ? undefined : parseMarker(text, file);
  }

  async writeMarker(marker: Marker): Promise<void> {
    const draft = path.join(this.#dataDir, `${MARKER}.${process.pid}.tmp`);
    const file = await open(draft, 'w', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(marker)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path.join(this.#dataDir, MARKER));
    await syncFolder(this.#dataDir);
  }

  /**
   * To be called before a missing file counts as lost: a folder that does not exist (not mounted), that is another store, or
   * an older copy, has lost nothing.
   *
   * @throws a `storage_fault` that says what was found at the path.
   */
  async assertIsThere(): Promise<void> {
    const { expected } = this;
    const found = expected === undefined ? undefined : await this.readMarker();
    if (
      expected !== undefined &&
      found?.storeId === expected.storeId &&
      found.generation >= expected.generation
    )
      return;
    const isFolder = await stat(this.#dataDir).then(
      (it) => it.isDirectory(),
      () => false,
    );
    if (expected === undefined && isFolder) return;
    throw new IngestError(
      'storage_fault',
      `The folder with the uploads, ${this.#dataDir}, ${describeWrongFolder(isFolder, found, expected)}`,
    );
  }

  /** @throws {RangeError} when `fileName` is not the name of an upload's file. */
  #pathOf(fileName: string): string {
    if (!FILE_NAME.test(fileName))
      throw new RangeError(`${JSON.stringify(fileName)} is not the name of an upload's file.`);
    return path.join(this.#dataDir, fileName);
  }
}

/** @throws a `storage_fault` for a text that is no marker. */
export function parseMarker(text: string, place: string): Marker {
  let marker: Partial<Marker> = {};
  try {
    marker = (JSON.parse(text) ?? {}) as Partial<Marker>;
  } catch {
    // Not JSON, so not a marker either.
  }
  const { storeId, generation } = marker;
  if (typeof storeId === 'string' && typeof generation === 'number') return { storeId, generation };
  throw new IngestError(
    'storage_fault',
    `${place} is not a marker of a store. Check what INGEST_STORE or INGEST_DATA_DIR points to.`,
  );
}

async function readInto(file: FileHandle, buffer: Buffer): Promise<Buffer> {
  const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, null);
  return buffer.subarray(0, bytesRead);
}

function describeWrongFolder(
  isFolder: boolean,
  found: Marker | undefined,
  expected: Marker | undefined,
): string {
  if (!isFolder) return 'is missing. Check that its disk is mounted.';
  if (found === undefined) return 'no longer has the marker of a store. Check that its disk is mounted.';
  if (found.storeId !== expected?.storeId)
    return `is store ${found.storeId}, and was store ${expected?.storeId} when this process started. Check which disk is mounted there.`;
  return 'is an older copy of the store that this process opened. Stop the service and see docs/operations.md, "Backup and restore".';
}

function bytesAreLost(storedBytes: number, acknowledgedBytes: number): IngestError {
  return new IngestError(
    'offset_conflict',
    `The disk lost bytes of this upload: the service acknowledged ${acknowledgedBytes} and holds ${storedBytes}. Ask for the offset with HEAD and send the rest again.`,
  );
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

async function asDiskFault<T>(uploadId: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toDiskFault(error, uploadId);
  }
}

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Turns the error of a system call into a fault of the disk, unless it is one of the connection to the database. */
function toDiskFault(error: unknown, uploadId: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined || isDatabaseUnavailable(error)) return error;
  if (NO_ROOM.has(code)) {
    return new IngestError(
      'insufficient_storage',
      `The disk is full (${code}): upload ${uploadId} can continue when there is room.`,
      { cause: error, retryAfterSeconds: 60 },
    );
  }
  return new IngestError(
    'storage_fault',
    `The disk failed (${code}) at the file of upload ${uploadId}. Try again.`,
    { cause: error, retryAfterSeconds: 10 },
  );
}
