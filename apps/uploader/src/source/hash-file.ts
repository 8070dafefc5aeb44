import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { countNewlines } from './count-newlines.ts';
import { type FileIdentity, identityOf, sameIdentity } from './file-identity.ts';
import { readBlocks } from './read-blocks.ts';
import { readText } from './read-text.ts';
import { changedSource, unreadableSource } from './source-fault.ts';

export type FileDigest = { sha256: string; lines: number; identity: FileIdentity };

/**
 * sha256 and line count (a last line without its newline counts) in one pass. Of a compressed file the bytes
 * are those that travel, the lines those of its text. Throws when the file changed in between.
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
    let totalBytes = 0;
    const hashed = tap(readBlocks(handle, path, before.bytes, signal), (block) => {
      hash.update(block);
      totalBytes += block.length;
      onBytes(block.length);
    });
    let lines = 0;
    let lastByte = 10;
    for await (const text of readText(hashed, path, before.bytes)) {
      lines += countNewlines(text);
      lastByte = text.at(-1) ?? lastByte;
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

async function* tap(blocks: AsyncIterable<Buffer>, see: (block: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const block of blocks) {
    see(block);
    yield block;
  }
}
