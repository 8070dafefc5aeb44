import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** The first line of postmaster.pid is the postmaster's process id (storage-file-layout in PostgreSQL's manual). */
export async function readPostmasterPid(clusterDir: string): Promise<number | undefined> {
  const text = await readFile(join(clusterDir, 'postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  return Number.isNaN(pid) ? undefined : pid;
}

/**
 * PostgreSQL ignores the pid file of a dead postmaster by itself, but not when the number meanwhile
 * belongs to another process of the same user, which is usual after a container or machine restarts.
 * Where /proc can tell that the process is no server of this folder, the file goes. PostgreSQL still finds
 * left-over backends, by the shared memory key that it derives from the folder's inode.
 */
export async function removeStalePidFile(clusterDir: string): Promise<void> {
  const pid = await readPostmasterPid(clusterDir);
  if (pid === undefined) return;
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  if (commandLine === undefined || commandLine.includes(clusterDir)) return;
  await rm(join(clusterDir, 'postmaster.pid'));
}
