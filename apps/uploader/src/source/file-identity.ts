import type { BigIntStats } from 'node:fs';

/** What must not change between hashing a file and having sent it. */
export type FileIdentity = { bytes: number; mtimeNs: string; inode: string };

export function identityOf(stats: BigIntStats): FileIdentity {
  return { bytes: Number(stats.size), mtimeNs: String(stats.mtimeNs), inode: String(stats.ino) };
}

export function sameIdentity(a: FileIdentity, b: FileIdentity): boolean {
  return a.bytes === b.bytes && a.mtimeNs === b.mtimeNs && a.inode === b.inode;
}
