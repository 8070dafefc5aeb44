import { constants } from 'node:fs';
import { mkdir, open, readFile, rename, stat, statfs, utimes } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { IngestError } from '../errors.ts';

/** Makes the folder of the uploads, for its owner only, so that it is there after a loss of power too. */
export async function prepareDataDir(dataDir: string): Promise<void> {
  const firstMade = await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (firstMade === undefined) return;
  const top = path.resolve(firstMade);
  for (let made = path.resolve(dataDir); made.length >= top.length; made = path.dirname(made)) {
    await syncFolder(path.dirname(made));
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

/** Never the name of an upload. */
const MARKER = 'store.json';

/** Which store a folder is, and how new: the database has a row that says the same. */
export interface Marker {
  readonly storeId: string;
  /** Grows with each start and each sweep of a service: an older copy of the folder has a smaller one. */
  readonly generation: number;
}

/** What this process has found a folder to be, to notice when another one is in its place. */
const known = new Map<string, Marker>();

export function rememberMarker(dataDir: string, marker: Marker): void {
  known.set(path.resolve(dataDir), marker);
}

/** Undefined for a folder without one. @throws whatever the disk says, and a fault for a file that is no marker. */
export async function readMarker(dataDir: string): Promise<Marker | undefined> {
  const text = await readFile(path.join(dataDir, MARKER), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
  if (text === undefined) return undefined;
  const { storeId, generation } = parse(text);
  if (typeof storeId === 'string' && typeof generation === 'number') return { storeId, generation };
  throw new IngestError('storage_fault', `${path.join(dataDir, MARKER)} is not a marker of a store.`);
}

function parse(text: string): Partial<Marker> {
  try {
    return (JSON.parse(text) ?? {}) as Partial<Marker>;
  } catch {
    return {};
  }
}

/** Whole or not at all, and on the disk when it resolves. */
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

/**
 * A file is missing only where the others are: a folder that is not there (not mounted), or is another one, or an older
 * copy, has lost nothing.
 *
 * @throws a fault that says what is in its place.
 */
export async function assertStoreIsThere(dataDir: string): Promise<void> {
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
    `The folder with the uploads, ${dataDir}, ${what(isFolder, found, expected)}`,
  );
}

function what(isFolder: boolean, found: Marker | undefined, expected: Marker | undefined): string {
  if (!isFolder) return 'is not there: see whether its disk is mounted.';
  if (found === undefined) return 'has no marker of a store any more: see whether its disk is mounted.';
  if (found.storeId !== expected?.storeId)
    return `is another store (${found.storeId}) than at the start (${expected?.storeId}): see what is mounted there.`;
  return 'is an older copy than at the start: stop the service and see docs/operations.md, "Restore".';
}

/** A disk that takes longer to sync a few bytes hangs, or is far too busy for uploads. */
const ANSWERS_WITHIN_MS = 5_000;

/**
 * Makes the disk of `dataDir` write something small, and waits for it. A call to a disk that hangs never ends
 * and keeps a thread for ever, so there is only one at a time.
 *
 * @returns a function that rejects when the disk does not take writes.
 */
export function diskProbe(dataDir: string): () => Promise<void> {
  let underWay: Promise<void> | undefined;
  return async () => {
    underWay ??= touch(dataDir).finally(() => {
      underWay = undefined;
    });
    const late = new AbortController();
    try {
      await Promise.race([underWay, delay(ANSWERS_WITHIN_MS, undefined, late).then(hangs)]);
    } catch (error) {
      if (error instanceof IngestError) throw error;
      throw new IngestError('storage_fault', 'The disk with the uploads takes no write.', { cause: error });
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

function hangs(): never {
  throw new IngestError(
    'storage_fault',
    `The disk with the uploads did not finish a small write within ${ANSWERS_WITHIN_MS / 1000} s.`,
  );
}
