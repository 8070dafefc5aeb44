import { readFile, rm } from 'node:fs/promises';
import * as z from 'zod';
import { replaceFile, stateFilePath } from '../state/state-file.ts';
import { type FileIdentity, sameIdentity } from './file-identity.ts';
import type { FileDigest } from './hash-file.ts';

const cacheSchema = z.object({
  version: z.literal(1),
  files: z.record(
    z.string(),
    z.object({
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
      lines: z.int().nonnegative(),
      identity: z.object({ bytes: z.int().nonnegative(), mtimeNs: z.string(), inode: z.string() }),
    }),
  ),
});

/** A file that was written this shortly before it was hashed could be written again within the same mtime. */
const SETTLED_AFTER_MS = 100;

export type HashCache = {
  find(path: string, identity: FileIdentity): FileDigest | null;
  add(path: string, digest: FileDigest): void;
  /** Replaces the file on disk as a whole: a torn cache would only cost time, but it need not. */
  save(): Promise<void>;
  forget(): Promise<void>;
};

/**
 * The hashes of one run's files, by absolute path, size, mtime and inode. Whatever is wrong with the cache
 * only means hashing again: `warn` is told, the push goes on. It may be deleted at any time.
 */
export async function openHashCache(
  stateDir: string | null,
  runFolder: string,
  warn: (sentence: string) => void,
): Promise<HashCache> {
  if (stateDir === null) {
    return { find: () => null, add: () => {}, save: async () => {}, forget: async () => {} };
  }
  const path = stateFilePath(stateDir, runFolder, '.json');
  const files = new Map<string, FileDigest>(Object.entries(await readEntries(path)));
  let dirty = false;
  return {
    find(filePath, identity) {
      const known = files.get(filePath);
      return known && sameIdentity(known.identity, identity) ? known : null;
    },
    add(filePath, digest) {
      if (Date.now() - Number(digest.identity.mtimeNs) / 1e6 < SETTLED_AFTER_MS) return;
      files.set(filePath, digest);
      dirty = true;
    },
    async save() {
      if (!dirty) return;
      dirty = false;
      try {
        await replaceFile(path, JSON.stringify({ version: 1, files: Object.fromEntries(files) }));
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        warn(`The hashes could not be kept in ${stateDir}, so the next push hashes again: ${reason}.`);
      }
    },
    async forget() {
      files.clear();
      await rm(path, { force: true }).catch((error: unknown) =>
        warn(`${path} could not be removed: ${error}.`),
      );
    },
  };
}

async function readEntries(path: string) {
  try {
    const parsed = cacheSchema.safeParse(JSON.parse(await readFile(path, 'utf8')));
    return parsed.success ? parsed.data.files : {};
  } catch {
    // Absent, unreadable or garbage: nothing is known, which is always a right answer here.
    return {};
  }
}
