import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MIB = 1024 * 1024;

/** A small ext4 disk in a file: its power can be cut, and it is soon full. */
export interface LoopDisk {
  mountPoint: string;
  /** What would be found on the disk had the power gone now, mounted; the journal is replayed. */
  afterPowerLoss(): Promise<{ mountPoint: string; unmount(): Promise<void> }>;
  /** Leaves room for about so many bytes, until `makeRoom`. */
  fill(leaveBytes: number): Promise<void>;
  makeRoom(): Promise<void>;
  remove(): Promise<void>;
}

/** @returns the reason, as a sentence, when this machine gives no loop mounts to this user. */
export async function makeLoopDisk(sizeMiB: number): Promise<LoopDisk | string> {
  if (process.getuid?.() !== 0) return 'Loop mounts need root.';
  const dir = await mkdtemp(join(tmpdir(), 'score-ingest-disk-'));
  await chmod(dir, 0o755);
  const image = join(dir, 'disk.img');
  const mountPoint = join(dir, 'disk');
  const filler = join(mountPoint, 'filler');
  try {
    const file = await open(image, 'w');
    await file.truncate(sizeMiB * MIB);
    await file.close();
    await run('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
    await mount(image, mountPoint);
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    return `Loop mounts cannot be had here: ${(error as Error).message.trim()}`;
  }
  return {
    mountPoint,
    async afterPowerLoss() {
      const copy = join(dir, 'copy.img');
      const copyPoint = join(dir, 'copy');
      // No sync, no unmount: whatever only the page cache of the mounted disk knows is not in the image.
      await copyFile(image, copy);
      await mount(copy, copyPoint);
      return { mountPoint: copyPoint, unmount: async () => void (await run('umount', [copyPoint])) };
    },
    async fill(leaveBytes) {
      const { stdout } = await run('df', ['--output=avail', '-B1', mountPoint]);
      const free = Number(stdout.trim().split('\n').at(-1));
      await run('fallocate', ['-l', String(free - leaveBytes), filler]);
    },
    makeRoom: () => rm(filler, { force: true }),
    async remove() {
      await run('umount', [mountPoint]);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function mount(image: string, mountPoint: string): Promise<void> {
  await mkdir(mountPoint, { recursive: true });
  await run('mount', ['-o', 'loop', image, mountPoint]);
}
