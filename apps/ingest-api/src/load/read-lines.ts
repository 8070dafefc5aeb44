import { uploadPath } from '../store/upload-files.ts';
import type { ClaimedFile } from './claim-next-load.ts';
import { readChunks } from './read-file.ts';

/** What a file's lines are read from, in chunks that are the caller's until it asks for the next one. */
export function readLines(file: ClaimedFile, dataDir: string): AsyncIterable<Buffer> | Iterable<Buffer> {
  // Nothing was ever sent for an empty file, so there is none on the disk.
  return file.bytes === 0 ? [] : readChunks(uploadPath(dataDir, file.uploadId));
}
