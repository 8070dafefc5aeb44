import { type FileHandle, open } from 'node:fs/promises';
import { compressionOf, expand } from 'score-lines';
import { uploadPath } from '../store/upload-files.ts';
import type { ClaimedFile } from './claim-next-load.ts';

const CHUNK_BYTES = 1024 * 1024;

/**
 * The lines of a file, expanded if its name says that it is compressed, in chunks that are the caller's until it asks
 * for the next one. `onRead` is called with what is read from the disk.
 */
export function readLines(
  file: ClaimedFile,
  dataDir: string,
  onRead: (stored: Buffer) => void = () => {},
): AsyncIterable<Buffer> {
  const stored = tell(readStored(file, dataDir), onRead);
  const compression = compressionOf(file.name);
  return compression === undefined ? stored : expand(stored, compression, file.bytes);
}

/**
 * The bytes of a file as they were received, in chunks of 1 MiB, the next one being read while the caller works on this
 * one. Two buffers take turns: a chunk is the caller's until it asks for the next one.
 */
export async function* readStored({ bytes, fileName }: ClaimedFile, dataDir: string): AsyncGenerator<Buffer> {
  if (bytes === 0) return; // nothing was ever sent for an empty file, so there is none on the disk
  const file = await open(uploadPath(dataDir, fileName), 'r');
  try {
    const buffers: [Buffer, Buffer] = [
      Buffer.allocUnsafeSlow(CHUNK_BYTES),
      Buffer.allocUnsafeSlow(CHUNK_BYTES),
    ];
    let turn: 0 | 1 = 0;
    let reading = readInto(file, buffers[turn]);
    for (;;) {
      const chunk = await reading;
      if (chunk.byteLength === 0) return;
      turn = turn === 0 ? 1 : 0;
      reading = readInto(file, buffers[turn]);
      reading.catch(() => {}); // awaited in the next turn
      yield chunk;
    }
  } finally {
    await file.close();
  }
}

async function readInto(file: FileHandle, buffer: Buffer): Promise<Buffer> {
  const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, null);
  return buffer.subarray(0, bytesRead);
}

async function* tell(chunks: AsyncIterable<Buffer>, onRead: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    onRead(chunk);
    yield chunk;
  }
}
