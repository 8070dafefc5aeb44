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
import { setTimeout as delay } from 'node:timers/promises';
import { IngestError, isDatabaseUnavailable } from '../errors.ts';

/** Creates the folder of the uploads, for its owner only, so that it exists after a power failure too. */
export async function prepareDataDir(dataDir: string): Promise<void> {
  const firstMade = await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (firstMade === undefined) return;
  const top = path.resolve(firstMade);
  for (let made = path.resolve(dataDir); made.length >= top.length; made = path.dirname(made)) {
    await syncFolder(path.dirname(made));
  }
}

/** Syncs the entries of a folder: names that were created, renamed or removed. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Never the name of an upload. */
const MARKER = 'store.json';

/** Which store a folder is, and how new. The database has a row with the same fields (`runs/store-identity.ts`). */
export interface Marker {
  readonly storeId: string;
  /** Grows with each start and each sweep of a service: an older copy of the folder has a smaller one. */
  readonly generation: number;
}

/** Undefined for a folder without one. @throws the error of the disk, and a `storage_fault` for a file that is no marker. */
export async function readMarker(dataDir: string): Promise<Marker | undefined> {
  const file = path.join(dataDir, MARKER);
  const text = await readFile(file, 'utf8').catch(missing);
  if (text === undefined) return undefined;
  const { storeId, generation } = parseMarker(text);
  if (typeof storeId === 'string' && typeof generation === 'number') return { storeId, generation };
  throw new IngestError(
    'storage_fault',
    `${file} is not a marker of a store. Check which disk is mounted there.`,
  );
}

function parseMarker(text: string): Partial<Marker> {
  try {
    return (JSON.parse(text) ?? {}) as Partial<Marker>;
  } catch {
    return {};
  }
}

/** Replaces the marker atomically, and syncs it before it resolves. */
export async function writeMarker(dataDir: string, marker: Marker): Promise<void> {
  const draft = path.join(dataDir, `${MARKER}.${process.pid}.tmp`);
  const file = await open(draft, 'w', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(marker)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path.join(dataDir, MARKER));
  await syncFolder(dataDir);
}

/** The marker that this process last read or wrote in each folder: another one later means that another folder is mounted there. */
const known = new Map<string, Marker>();

export function rememberMarker(dataDir: string, marker: Marker): void {
  known.set(path.resolve(dataDir), marker);
}

/**
 * To be called before a missing file counts as lost: a folder that does not exist (not mounted), that is another store, or
 * an older copy, has lost nothing.
 *
 * @throws a `storage_fault` that says what was found at the path.
 */
async function assertStoreIsThere(dataDir: string): Promise<void> {
  const expected = known.get(path.resolve(dataDir));
  const found = expected === undefined ? undefined : await readMarker(dataDir);
  if (
    expected !== undefined &&
    found?.storeId === expected.storeId &&
    found.generation >= expected.generation
  )
    return;
  const isFolder = await stat(dataDir).then(
    (it) => it.isDirectory(),
    () => false,
  );
  if (expected === undefined && isFolder) return;
  throw new IngestError(
    'storage_fault',
    `The folder with the uploads, ${dataDir}, ${describeWrongFolder(isFolder, found, expected)}`,
  );
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

/** The service creates upload ids: 128 random bits in hex. */
const UPLOAD_ID = /^[0-9a-f]{32}$/;
/** The file of an upload is named by its id; a copy (`copyAcknowledged`) has a suffix. No other name becomes a path. */
const FILE_NAME = /^[0-9a-f]{32}(\.[0-9a-f]{16})?$/;

export function isUploadId(text: string): boolean {
  return UPLOAD_ID.test(text);
}

/** @throws {RangeError} when `fileName` is not the name of an upload's file. */
export function uploadPath(dataDir: string, fileName: string): string {
  if (!FILE_NAME.test(fileName))
    throw new RangeError(`${JSON.stringify(fileName)} is not the name of an upload's file.`);
  return path.join(dataDir, fileName);
}

/**
 * Opens an upload's file to write at `offsetBytes`. Bytes behind that offset were never acknowledged (a crash, or a failed
 * sync) and are cut off. A file that is created here is not safe until its folder is synced.
 *
 * @throws an `offset_conflict` when the file is missing or short: the client's HEAD then sets the offset back.
 */
export async function openForWriting(
  dataDir: string,
  fileName: string,
  offsetBytes: number,
): Promise<FileHandle> {
  const created = offsetBytes === 0 ? constants.O_CREAT | constants.O_TRUNC : 0;
  if (created) await assertStoreIsThere(dataDir); // else the file would be created under the mount point of a missing disk
  const file = await open(uploadPath(dataDir, fileName), constants.O_RDWR | created, 0o600).catch(missing);
  if (file === undefined) {
    await assertStoreIsThere(dataDir);
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

/**
 * Makes a second file of an upload, with its acknowledged bytes, for a writer that takes the upload over from one that may
 * only be frozen: what the frozen one still writes goes to the first file, which nobody reads any more. The name is random,
 * because a writer that takes over may freeze too. The copy costs nothing where the file system can share blocks.
 *
 * @returns the name of the file, which holds `offsetBytes` synced bytes. With an offset of 0 no file is created.
 */
export async function copyAcknowledged(
  dataDir: string,
  { uploadId, fileName, offsetBytes }: { uploadId: string; fileName: string; offsetBytes: number },
): Promise<string> {
  const copyName = `${uploadId}.${randomBytes(8).toString('hex')}`;
  if (offsetBytes === 0) return copyName;
  const copyPath = uploadPath(dataDir, copyName);
  try {
    await copyFile(
      uploadPath(dataDir, fileName),
      copyPath,
      constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE,
    );
    const copy = await openForWriting(dataDir, copyName, offsetBytes);
    try {
      await copy.datasync();
    } finally {
      await copy.close();
    }
    await syncFolder(dataDir);
    return copyName;
  } catch (error) {
    await unlink(copyPath).catch(() => {});
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    await assertStoreIsThere(dataDir);
    throw bytesAreLost(0, offsetBytes);
  }
}

function bytesAreLost(storedBytes: number, acknowledgedBytes: number): IngestError {
  return new IngestError(
    'offset_conflict',
    `The disk lost bytes of this upload: the service acknowledged ${acknowledgedBytes} and holds ${storedBytes}. Ask for the offset with HEAD and send the rest again.`,
  );
}

/**
 * The size of an upload's file; 0 when the file does not exist. Read from the open file: a network file system may report
 * an old size for the name.
 *
 * @throws every other error of the disk (EIO, EACCES, ESTALE): a fault does not say what the file holds.
 */
export async function storedBytes(dataDir: string, fileName: string): Promise<number> {
  const file = await open(uploadPath(dataDir, fileName), 'r').catch(missing);
  await assertStoreIsThere(dataDir);
  if (file === undefined) return 0;
  try {
    return (await file.stat()).size;
  } finally {
    await file.close();
  }
}

/** True when the file seems to hold fewer bytes. Cheap; `storedBytes` decides. */
export async function seemsShort(dataDir: string, fileName: string, bytes: number): Promise<boolean> {
  if (bytes === 0) return false; // the file need not exist
  const found = await stat(uploadPath(dataDir, fileName)).catch(missing);
  return found === undefined || found.size < bytes;
}

/** Resolves when the file is removed, or does not exist. */
export async function removeUploadFile(dataDir: string, fileName: string): Promise<void> {
  await unlink(uploadPath(dataDir, fileName)).catch(missing);
}

/** Removes every file of these uploads, including copies that a killed writer left behind. */
export async function removeUploadFiles(dataDir: string, uploadIds: ReadonlySet<string>): Promise<void> {
  if (uploadIds.size === 0) return;
  for (const name of await readdir(dataDir))
    if (FILE_NAME.test(name) && uploadIds.has(name.slice(0, 32))) await removeUploadFile(dataDir, name);
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Turns the error of a system call into a fault of the disk, unless it is one of the connection to the database. */
export function toDiskFault(error: unknown, uploadId: string): unknown {
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

/** Bytes that an unprivileged user may still write to the disk of `dataDir`. */
export async function freeBytes(dataDir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dataDir);
  return bavail * bsize;
}

/** A disk that needs longer to sync a few bytes hangs, or is too busy for uploads. */
const PROBE_TIMEOUT_MS = 5_000;

/**
 * Makes the disk of `dataDir` write a few bytes, and waits for them. A call to a disk that hangs never returns and
 * occupies a thread for ever, so at most one is under way.
 *
 * @returns a function that rejects when the disk does not accept writes.
 */
export function diskProbe(dataDir: string): () => Promise<void> {
  let underWay: Promise<void> | undefined;
  return async () => {
    underWay ??= touch(dataDir).finally(() => {
      underWay = undefined;
    });
    const late = new AbortController();
    try {
      await Promise.race([underWay, delay(PROBE_TIMEOUT_MS, undefined, late).then(throwTimeout)]);
    } catch (error) {
      if (error instanceof IngestError) throw error;
      throw new IngestError('storage_fault', 'The disk with the uploads does not accept writes.', {
        cause: error,
      });
    } finally {
      late.abort();
    }
  };
}

async function touch(folder: string): Promise<void> {
  await assertStoreIsThere(folder);
  const now = new Date();
  await utimes(folder, now, now);
  await syncFolder(folder);
}

function throwTimeout(): never {
  throw new IngestError(
    'storage_fault',
    `The disk with the uploads did not finish a small write within ${PROBE_TIMEOUT_MS / 1000} s.`,
  );
}
