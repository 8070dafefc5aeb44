import { execFile } from 'node:child_process';
import { type FileHandle, mkdtemp, open, readdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const KEPT_FREE_BYTES = 192 * 1024 ** 2;
/** A machine with more free memory than this keeps the rest free. */
const MOST_FILLED_BYTES = 64 * 1024 ** 3;
const BLOCK_BYTES = 1024 ** 2;

const held: FileHandle[] = [];

/**
 * The state in which every measurement begins: no unwritten data, no free memory, and `filesToRead` in the page cache.
 * On a server that has run for a day, the memory is full of files that were read once. Free memory of a virtual
 * machine may belong to its host, which returns it page by page on the first write: ten times slower than a write to
 * memory that the machine has.
 *
 * `BENCH_FULL_MEMORY=0` does not fill the memory.
 */
export async function quietMachine(filesToRead: readonly string[] = []): Promise<void> {
  await quietDisk();
  if (process.env.BENCH_FULL_MEMORY !== '0') await fillMemory();
  // After the memory is filled, because filling it may evict them.
  for (const path of filesToRead) {
    await using file = await open(path);
    await readBytes(file, 0, Number.POSITIVE_INFINITY);
  }
}

/** Writes everything to the disk, so that the unwritten data of one contender does not slow the next one. */
export async function quietDisk(): Promise<void> {
  await promisify(execFile)('sync');
}

/** Removes what a store has received. Keeps store.json, which identifies the store. */
export async function emptyFolder(dir: string): Promise<void> {
  const files = (await readdir(dir)).filter((name) => name !== 'store.json');
  for (const file of files) await rm(path.join(dir, file), { recursive: true, force: true });
}

/** Reads a sparse file: its pages are cached, need no disk, and are evicted first. */
async function fillMemory(): Promise<void> {
  const bytes = Math.min((await freeMemoryBytes()) - KEPT_FREE_BYTES, MOST_FILLED_BYTES);
  if (bytes < BLOCK_BYTES) return;
  const dir = await mkdtemp(path.join(tmpdir(), 'bench-memory-'));
  const file = await open(path.join(dir, 'sparse'), 'w+');
  await rm(dir, { recursive: true }); // this process keeps the file open; it is deleted when the process ends
  held.push(file);
  await file.truncate(bytes);
  // On all cores, because the host is slow to return each page.
  const share = Math.ceil(bytes / availableParallelism());
  const starts = Array.from({ length: availableParallelism() }, (_, core) => core * share);
  await Promise.all(starts.map((start) => readBytes(file, start, start + share)));
}

async function readBytes(file: FileHandle, start: number, end: number): Promise<void> {
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  let at = start;
  while (at < end) {
    const { bytesRead } = await file.read(block, 0, BLOCK_BYTES, at);
    if (bytesRead === 0) return;
    at += bytesRead;
  }
}

/** 0 on systems other than Linux. */
async function freeMemoryBytes(): Promise<number> {
  const meminfo = await readFile('/proc/meminfo', 'utf8').catch(() => '');
  return Number(/^MemFree:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * 1024;
}
