import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, type FileHandle, open, readdir, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import { IngestError, isDatabaseUnavailable } from '../errors.ts';
import { assertStoreIsThere, syncFolder } from './folder.ts';

/** Upload ids are made by us: 128 random bits in hex. */
const UPLOAD_ID = /^[0-9a-f]{32}$/;
/** An upload's file has its id for a name, and more once it was copied (`copyAcknowledged`). Nothing else becomes a path. */
const FILE_NAME = /^[0-9a-f]{32}(\.[0-9a-f]{16})?$/;

export function isUploadId(text: string): boolean {
  return UPLOAD_ID.test(text);
}

/** @throws {RangeError} when `fileName` is not one of ours. */
export function uploadPath(dataDir: string, fileName: string): string {
  if (!FILE_NAME.test(fileName)) throw new RangeError(`${JSON.stringify(fileName)} is no file of an upload.`);
  return path.join(dataDir, fileName);
}

/**
 * Opens an upload's file to write at `offsetBytes`. Whatever lies behind that offset was never acknowledged
 * (a crash, or a failed sync) and is cut off. A file that is made here is not safe before its folder is synced.
 *
 * @throws an `offset_conflict` when the file is missing or short: the client asks for the offset, which is then set back.
 */
export async function openForWriting(
  dataDir: string,
  fileName: string,
  offsetBytes: number,
): Promise<FileHandle> {
  const created = offsetBytes === 0 ? constants.O_CREAT | constants.O_TRUNC : 0;
  if (created) await assertStoreIsThere(dataDir); // else a file would be made below a disk that is not mounted
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
 * Makes a second file of an upload, with the bytes that were acknowledged, for a writer that takes it over from one that
 * may only be frozen: whatever that one still writes ends up in the first file, which nobody reads any more. The name was
 * never used before, as a writer that takes over may be frozen itself. Costs nothing where the file system can share blocks.
 *
 * @returns the name of the file, which holds `offsetBytes` bytes and is safe; with none, it is yet to be made.
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
    `The service holds ${storedBytes} of the ${acknowledgedBytes} bytes that it had acknowledged; ask for the offset and send the rest again.`,
  );
}

/**
 * The bytes that an upload's file holds; 0 when it is not there. Asked of the opened file: a network file system may tell
 * an old size by its name.
 *
 * @throws whatever else the disk says (EIO, EACCES, ESTALE): a fault says nothing about what is there.
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

/** True when the file seems to hold fewer bytes. Cheap; `storedBytes` is what decides. */
export async function seemsShort(dataDir: string, fileName: string, bytes: number): Promise<boolean> {
  if (bytes === 0) return false; // there need be none
  const found = await stat(uploadPath(dataDir, fileName)).catch(missing);
  return found === undefined || found.size < bytes;
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

/** A file that is not there is as good as removed. */
export async function removeUploadFile(dataDir: string, fileName: string): Promise<void> {
  await unlink(uploadPath(dataDir, fileName)).catch(missing);
}

/** Removes every file of these uploads, also copies that a writer which was killed has left behind. */
export async function removeUploadFiles(dataDir: string, uploadIds: ReadonlySet<string>): Promise<void> {
  if (uploadIds.size === 0) return;
  for (const name of await readdir(dataDir))
    if (FILE_NAME.test(name) && uploadIds.has(name.slice(0, 32))) await removeUploadFile(dataDir, name);
}

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** What a system call said is the disk's fault, unless it was one of the way to the database. */
export function toDiskFault(error: unknown, uploadId: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined || isDatabaseUnavailable(error)) return error;
  if (NO_ROOM.has(code)) {
    return new IngestError(
      'insufficient_storage',
      `The disk is full: upload ${uploadId} can continue when there is room.`,
      { cause: error, retryAfterSeconds: 60 },
    );
  }
  return new IngestError(
    'storage_fault',
    `The disk failed (${code}) at the file of upload ${uploadId}; try again.`,
    { cause: error, retryAfterSeconds: 10 },
  );
}
