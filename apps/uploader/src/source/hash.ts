import { createHash } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { type FileHandle, open, readFile, rm, stat } from 'node:fs/promises';
import { compressionOf } from 'score-lines';
import { printable } from 'wire';
import * as z from 'zod';
import { UploaderError } from '../errors.ts';
import { replaceFile, stateFilePath } from '../settings/state.ts';
import { type CountingThread, countNewlines, countOnThread } from './count-newlines.ts';
import { DATA_FILES, SKIPPED, type SourceFile, type SourceRun } from './find-runs.ts';
import { addedSource, BLOCK_BYTES, changedSource, readBlocks, readText, unreadableSource } from './read.ts';

export type HashedFile = SourceFile & { sha256: string; lines: number; identity: FileIdentity };

/** A push that is killed while it hashes continues from the last save. */
const SAVE_EVERY_MS = 5000;

/**
 * Hashes the files that the cache does not know. Returns them in the order of `run.files`. Throws when the folder changes
 * meanwhile.
 */
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
  await refuseChangedRun(run, hashed);
  return hashed;
}

export function refuseEmpty(run: SourceRun): void {
  if (run.files.length > 0) return;
  throw new UploaderError(
    'source',
    `${printable(run.folder)} contains no data file (${DATA_FILES}; ${SKIPPED} are skipped).`,
  );
}

/** Throws when the file is no longer the one that was hashed. */
async function refuseChanged(file: HashedFile): Promise<void> {
  if (!sameIdentity(await identify(file.path), file.identity)) throw changedSource(file.path);
}

/** Throws when the folder no longer has the files that were hashed, and no others: a program still writes there. */
export async function refuseChangedRun(run: SourceRun, files: readonly HashedFile[]): Promise<void> {
  const now = await run.again();
  if (now.fault) throw now.fault;
  const known = new Set(files.map(({ name }) => name));
  const added = now.files.find(({ name }) => !known.has(name));
  if (added) throw addedSource(added.path);
  for (const file of files) await refuseChanged(file);
}

export async function identify(path: string): Promise<FileIdentity> {
  try {
    return identityOf(await stat(path, { bigint: true }));
  } catch (error) {
    throw unreadableSource(path, error);
  }
}

/** The lines of a smaller file are counted before a thread has started. */
const THREAD_FROM_BYTES = 64 * 1024 ** 2;

type FileDigest = { sha256: string; lines: number; identity: FileIdentity };

/**
 * sha256 and line count (a last line without its newline counts) in one pass. The hash of a compressed file
 * is that of its bytes as they are sent; its lines are counted in the text, those of a large file on a second
 * thread. Throws when the file changes meanwhile.
 */
export async function hashFile(
  path: string,
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<FileDigest> {
  let handle: FileHandle | undefined;
  let thread: CountingThread | undefined;
  try {
    handle = await open(path, 'r');
    const before = identityOf(await handle.stat({ bigint: true }));
    if (before.bytes >= THREAD_FROM_BYTES && compressionOf(path) === undefined)
      thread = await countOnThread(BLOCK_BYTES);
    const hash = createHash('sha256');
    let totalBytes = 0;
    const blocks = readBlocks(handle, path, before.bytes, signal, thread?.take);
    const hashed = tap(blocks, (block) => {
      hash.update(block);
      totalBytes += block.length;
      onBytes(block.length);
    });
    let newlines = 0;
    let lastByte = 10;
    for await (const text of readText(hashed, path, before.bytes)) {
      if (thread === undefined) newlines += countNewlines(text);
      else thread.count(text);
      lastByte = text.at(-1) ?? lastByte;
    }
    newlines += (await thread?.total()) ?? 0;
    const after = identityOf(await handle.stat({ bigint: true }));
    if (!sameIdentity(before, after) || totalBytes !== after.bytes) throw changedSource(path);
    return { sha256: hash.digest('hex'), lines: lastByte === 10 ? newlines : newlines + 1, identity: after };
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw unreadableSource(path, error);
    throw error;
  } finally {
    await thread?.stop();
    await handle?.close();
  }
}

async function* tap(blocks: AsyncIterable<Buffer>, see: (block: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const block of blocks) {
    see(block);
    yield block;
  }
}

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

type HashCache = {
  find(path: string, identity: FileIdentity): FileDigest | null;
  add(path: string, digest: FileDigest): void;
  /** Replaces the file on disk as a whole. (A torn cache would do no harm: the files are hashed again.) */
  save(): Promise<void>;
  forget(): Promise<void>;
};

/**
 * The hashes of one run's files, by absolute path, size, mtime and inode. Whatever is wrong with the cache
 * only means hashing again: `warn` is called, and the push continues. It may be deleted at any time.
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
        warn(
          `The hashes could not be saved in ${stateDir}, so the next push hashes the files again: ${reason}.`,
        );
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
    // Missing, unreadable or garbage: nothing is known, which is always a correct answer here.
    return {};
  }
}

/** What must not change from the start of hashing a file to the end of sending it. */
export type FileIdentity = { bytes: number; mtimeNs: string; inode: string };

export function identityOf(stats: BigIntStats): FileIdentity {
  return { bytes: Number(stats.size), mtimeNs: String(stats.mtimeNs), inode: String(stats.ino) };
}

export function sameIdentity(a: FileIdentity, b: FileIdentity): boolean {
  return a.bytes === b.bytes && a.mtimeNs === b.mtimeNs && a.inode === b.inode;
}
