import { type FileHandle, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { quietDisk } from './quiet-disk.ts';

const KEPT_FREE_BYTES = 192 * 1024 ** 2;
/** On a larger machine some memory stays free, and the figures tell what they tell there. */
const MOST_FILLED_BYTES = 64 * 1024 ** 3;
const BLOCK_BYTES = 1024 ** 2;

const held: FileHandle[] = [];

/**
 * What every measurement begins with: nothing left to be written, no memory free, and in the page cache what is about to
 * be read (`filesToRead`: filling the memory may have driven them out). A server that has been up for a day
 * has its memory full of files that were read once. Free memory of a virtual machine may not be its own: the host
 * takes it back, and gives it again page by page to whoever writes next, ten times as slowly.
 *
 * `BENCH_FULL_MEMORY=0` leaves the memory as it is.
 */
export async function quietMachine(filesToRead: readonly string[] = []): Promise<void> {
  await quietDisk();
  if (process.env.BENCH_FULL_MEMORY !== '0') await fillMemory();
  for (const path of filesToRead) {
    await using file = await open(path);
    await readBytes(file, 0, Number.POSITIVE_INFINITY);
  }
}

/** Reads a file that is all hole: its pages are cached, cost no disk, and are the first to be given up. */
async function fillMemory(): Promise<void> {
  const bytes = Math.min((await freeMemoryBytes()) - KEPT_FREE_BYTES, MOST_FILLED_BYTES);
  if (bytes < BLOCK_BYTES) return;
  const dir = await mkdtemp(path.join(tmpdir(), 'bench-memory-'));
  const file = await open(path.join(dir, 'hole'), 'w+');
  await rm(dir, { recursive: true }); // gone with this process, which holds it open
  held.push(file);
  await file.truncate(bytes);
  // On all cores: the host takes its time for each page.
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

/** 0 where Linux does not tell. */
async function freeMemoryBytes(): Promise<number> {
  const meminfo = await readFile('/proc/meminfo', 'utf8').catch(() => '');
  return Number(/^MemFree:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * 1024;
}
