import { CompressionFault, compressionOf, expand } from 'score-lines';
import { UploaderError } from '../uploader-error.ts';

/** The lines of a file as text: expanded when its name says that it is compressed, as the service does it. */
export async function* readText(
  blocks: AsyncIterable<Buffer>,
  path: string,
  sizeBytes: number,
): AsyncGenerator<Buffer> {
  const compression = compressionOf(path);
  if (compression === undefined) {
    yield* blocks;
    return;
  }
  try {
    yield* expand(blocks, compression, sizeBytes);
  } catch (error) {
    if (!(error instanceof CompressionFault)) throw error;
    throw new UploaderError('data', `${path}: ${error.message}`, { cause: error });
  }
}
