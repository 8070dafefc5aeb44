import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { countNewlines } from './count-newlines.ts';
import { type FileIdentity, identityOf, sameIdentity } from './file-identity.ts';
import { changedSource, unreadableSource } from './source-fault.ts';

export type FileDigest = { sha256: string; lines: number; identity: FileIdentity };

const BLOCK_BYTES = 1 << 20;

/**
 * sha256 and line count (a last line without its newline counts) in one pass. The next block is read while
 * this one is hashed. Throws when the file changed in between.
 */
export async function hashFile(
  path: string,
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<FileDigest> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const before = identityOf(await handle.stat({ bigint: true }));
    const hash = createHash('sha256');
    // Two of a full megabyte for each of 10,000 small files would be most of the work.
    const blockBytes = Math.min(BLOCK_BYTES, before.bytes + 1);
    const blocks: [Buffer, Buffer] = [Buffer.allocUnsafe(blockBytes), Buffer.allocUnsafe(blockBytes)];
    let lines = 0;
    let lastByte = 10;
    let totalBytes = 0;
    let reading = handle.read(blocks[0], 0, blockBytes);
    for (;;) {
      const { bytesRead } = await reading;
      signal.throwIfAborted();
      if (bytesRead === 0) break;
      const block = blocks[0].subarray(0, bytesRead);
      blocks.reverse();
      reading = handle.read(blocks[0], 0, blockBytes);
      // Nobody awaits this read when hashing stops early; its error would then end the process.
      reading.catch(() => {});
      hash.update(block);
      lines += countNewlines(block);
      lastByte = block[bytesRead - 1] ?? lastByte;
      totalBytes += bytesRead;
      onBytes(bytesRead);
    }
    const after = identityOf(await handle.stat({ bigint: true }));
    if (!sameIdentity(before, after) || totalBytes !== after.bytes) throw changedSource(path);
    return { sha256: hash.digest('hex'), lines: lastByte === 10 ? lines : lines + 1, identity: after };
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw unreadableSource(path, error);
    throw error;
  } finally {
    await handle?.close();
  }
}
