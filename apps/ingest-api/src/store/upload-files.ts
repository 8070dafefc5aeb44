import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, stat, statfs, unlink } from 'node:fs/promises';
import path from 'node:path';

/** Upload ids are made by us: 128 random bits in hex. Nothing else becomes a path. */
const UPLOAD_ID = /^[0-9a-f]{32}$/;

export function isUploadId(text: string): boolean {
  return UPLOAD_ID.test(text);
}

/** @throws {RangeError} when `uploadId` is not one of ours. */
export function uploadPath(dataDir: string, uploadId: string): string {
  if (!isUploadId(uploadId)) throw new RangeError(`${JSON.stringify(uploadId)} is not an upload id.`);
  return path.join(dataDir, uploadId);
}

/** Makes the folder of the uploads, for its owner only, so that it is there after a loss of power too. */
export async function prepareDataDir(dataDir: string): Promise<void> {
  const firstMade = await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (firstMade === undefined) return;
  const top = path.resolve(firstMade);
  for (let made = path.resolve(dataDir); made.length >= top.length; made = path.dirname(made)) {
    await syncFolder(path.dirname(made));
  }
}

/**
 * Opens an upload's file to write at `offsetBytes`. Whatever lies behind that offset was never acknowledged
 * (a crash, or a failed sync) and is cut off. A file that is made here is not safe before its folder is synced.
 */
export async function openForWriting(
  dataDir: string,
  uploadId: string,
  offsetBytes: number,
): Promise<FileHandle> {
  const emptied = offsetBytes === 0 ? constants.O_TRUNC : 0;
  const flags = constants.O_RDWR | constants.O_CREAT | emptied;
  const file = await open(uploadPath(dataDir, uploadId), flags, 0o600);
  if (emptied) return file;
  try {
    const { size } = await file.stat();
    if (size < offsetBytes) {
      throw new Error(
        `The file of upload ${uploadId} holds ${size} bytes, but ${offsetBytes} were acknowledged: it was changed from outside.`,
      );
    }
    if (size > offsetBytes) await file.truncate(offsetBytes);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The bytes that an upload's file holds; 0 when it is not there. */
export async function storedBytes(dataDir: string, uploadId: string): Promise<number> {
  try {
    return (await stat(uploadPath(dataDir, uploadId))).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}

/** A file that is not there is as good as removed. */
export async function removeUploadFile(dataDir: string, uploadId: string): Promise<void> {
  try {
    await unlink(uploadPath(dataDir, uploadId));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Bytes that an ordinary user may still write on the disk of `dataDir`. */
export async function freeBytes(dataDir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dataDir);
  return bavail * bsize;
}

/** Brings what was entered in a folder to the disk. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
