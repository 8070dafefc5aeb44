import { DetailedError, Upload } from 'tus-js-client';
import type { ExchangeResponse } from '../net/exchange.ts';
import { HttpFault } from '../net/http-fault.ts';
import type { HashedFile } from '../source/hash-run.ts';
import { fileSlices } from './file-slices.ts';
import { tusHttpStack } from './tus-http-stack.ts';

export type SendOptions = {
  file: HashedFile;
  uploadUrl: string;
  /** Where the upload stands, when the service has said so a moment ago; otherwise it is asked. */
  offsetBytes?: number | undefined;
  headers: () => Record<string, string>;
  chunkSizeBytes: number;
  stallTimeoutMs: number;
  signal: AbortSignal;
  /** Body bytes handed to the network. */
  onBytes: (bytes: number) => void;
  /** See StreamBody. */
  pauseMs: (bytes: number) => number;
  /** The service holds this much of the file. */
  onAcknowledged: (offsetBytes: number) => void;
};

const TRY_IS_OVER = new Error('This try is over.');

/**
 * One try: HEAD for the offset when it is not known, then PATCH after PATCH to the end. The library's part is the protocol; when
 * to try again is decided outside, because it would retry for nine seconds, take a 429 for final and a 502
 * on HEAD for a reason to start over. Resolving means only that all was sent: the run's state says the rest.
 */
export async function sendOnce(options: SendOptions): Promise<void> {
  const { signal } = options;
  signal.throwIfAborted();
  // Not AbortSignal.any(): the one signal of a push would gather a dependent for each of 10,000 files.
  const ended = new AbortController();
  const onAbort = () => ended.abort(signal.reason);
  signal.addEventListener('abort', onAbort);
  try {
    await new Promise<void>((resolve, reject) => {
      let lastAnswer: ExchangeResponse | undefined;
      // The source is ours (`fileReader`); the library only wants to see that there is one.
      const upload = new Upload(Buffer.from(options.file.path), {
        uploadUrl: options.uploadUrl,
        chunkSize: options.chunkSizeBytes,
        retryDelays: null,
        storeFingerprintForResuming: false,
        fingerprint: async () => options.file.sha256,
        fileReader: { openFile: async () => fileSlices(options.file, options) },
        httpStack: tusHttpStack({
          stallTimeoutMs: options.stallTimeoutMs,
          headers: options.headers,
          signal: ended.signal,
          standing:
            options.offsetBytes === undefined
              ? undefined
              : { offsetBytes: options.offsetBytes, sizeBytes: options.file.identity.bytes },
        }),
        onAfterResponse: (_request, response) => {
          lastAnswer = response.getUnderlyingObject();
          const offset = Number(response.getHeader('Upload-Offset') ?? Number.NaN);
          if (response.getStatus() < 300 && Number.isInteger(offset)) options.onAcknowledged(offset);
        },
        onChunkComplete: (chunkBytes) => {
          // The library would send the same again at once, for as long as it takes.
          if (chunkBytes <= 0 && lastAnswer) reject(new HttpFault(lastAnswer, 'it took none of the bytes'));
        },
        onSuccess: () => resolve(),
        onError: (error) => reject(unwrap(error)),
      });
      upload.start();
    });
  } finally {
    // Whatever is still open belongs to a try that is over.
    signal.removeEventListener('abort', onAbort);
    ended.abort(TRY_IS_OVER);
  }
}

/** The library wraps what went wrong into a text; what the verdict needs is the fault itself. */
function unwrap(error: Error): unknown {
  if (!(error instanceof DetailedError)) return error;
  if (error.causingError) return error.causingError;
  const response: ExchangeResponse | undefined = error.originalResponse?.getUnderlyingObject();
  return response ? new HttpFault(response) : error;
}
