import { type FileHandle, open } from 'node:fs/promises';

const CHUNK_BYTES = 1024 * 1024;

/**
 * The bytes of a file in chunks of 1 MiB, the next one being read while the caller works on this one.
 * Two buffers take turns: a chunk is the caller's until it asks for the next one.
 */
export async function* readChunks(path: string): AsyncGenerator<Buffer> {
  const file = await open(path, 'r');
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
