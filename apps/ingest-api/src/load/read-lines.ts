import { compressionOf, expand } from 'score-lines';
import { uploadPath } from '../store/upload-files.ts';
import type { ClaimedFile } from './claim-next-load.ts';
import { readChunks } from './read-file.ts';

/**
 * The lines of a file, expanded if its name says that it is compressed, in chunks that are the caller's until it asks
 * for the next one. `onRead` is told of what is read from the disk.
 */
export function readLines(
  file: ClaimedFile,
  dataDir: string,
  onRead: (stored: Buffer) => void = () => {},
): AsyncIterable<Buffer> {
  const stored = tell(readStored(file, dataDir), onRead);
  const compression = file.bytes === 0 ? undefined : compressionOf(file.name);
  return compression === undefined ? stored : expand(stored, compression, file.bytes);
}

/** The bytes of a file as they came in. */
export async function* readStored(file: ClaimedFile, dataDir: string): AsyncGenerator<Buffer> {
  // Nothing was ever sent for an empty file, so there is none on the disk.
  if (file.bytes > 0) yield* readChunks(uploadPath(dataDir, file.uploadId));
}

async function* tell(chunks: AsyncIterable<Buffer>, onRead: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    onRead(chunk);
    yield chunk;
  }
}
