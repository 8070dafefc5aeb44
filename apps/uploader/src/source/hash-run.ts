import { stat } from 'node:fs/promises';
import { UploaderError } from '../uploader-error.ts';
import { type FileIdentity, identityOf, sameIdentity } from './file-identity.ts';
import { DATA_FILES, PASSED_OVER, type SourceFile, type SourceRun } from './find-runs.ts';
import type { HashCache } from './hash-cache.ts';
import { hashFile } from './hash-file.ts';
import { printable } from './names.ts';
import { changedSource, unreadableSource } from './source-fault.ts';

export type HashedFile = SourceFile & { sha256: string; lines: number; identity: FileIdentity };

/** A push that is killed while it hashes goes on from the last save. */
const SAVE_EVERY_MS = 5000;

/** Hashes what the cache does not know. Files come back in the order of `run.files`. */
export async function hashRun(
  run: SourceRun,
  cache: HashCache,
  signal: AbortSignal,
  progress: { totalBytes: number; hashedBytes: number },
): Promise<HashedFile[]> {
  refuseEmpty(run);
  const identified: Array<{ file: SourceFile; identity: FileIdentity }> = [];
  for (const file of run.files) identified.push({ file, identity: await identify(file.path) });
  progress.totalBytes = identified.reduce((sum, { identity }) => sum + identity.bytes, 0);

  const hashed: HashedFile[] = [];
  const onBytes = (bytes: number) => {
    progress.hashedBytes += bytes;
  };
  let savedAt = performance.now();
  try {
    for (const { file, identity } of identified) {
      signal.throwIfAborted();
      let digest = cache.find(file.path, identity);
      if (digest) onBytes(identity.bytes);
      else {
        digest = await hashFile(file.path, signal, onBytes);
        cache.add(file.path, digest);
      }
      hashed.push({ ...file, ...digest });
      if (performance.now() - savedAt > SAVE_EVERY_MS) {
        await cache.save();
        savedAt = performance.now();
      }
    }
  } finally {
    await cache.save();
  }
  return hashed;
}

export function refuseEmpty(run: SourceRun): void {
  if (run.files.length > 0) return;
  throw new UploaderError(
    'source',
    `${printable(run.folder)} holds no data file (${DATA_FILES}; ${PASSED_OVER} are passed over).`,
  );
}

/** Throws when the file is not the one that was hashed any more. */
export async function refuseChanged(file: HashedFile): Promise<void> {
  if (!sameIdentity(await identify(file.path), file.identity)) throw changedSource(file.path);
}

export async function identify(path: string): Promise<FileIdentity> {
  try {
    return identityOf(await stat(path, { bigint: true }));
  } catch (error) {
    throw unreadableSource(path, error);
  }
}
