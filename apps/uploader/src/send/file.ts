import { open } from 'node:fs/promises';
import {
  DetailedError,
  type FileSource,
  type HttpRequest,
  type HttpResponse,
  type HttpStack,
  Upload,
} from 'tus-js-client';
import { UploaderError } from '../errors.ts';
import { type ExchangeResponse, exchange, type StreamBody } from '../http/exchange.ts';
import { HttpFault } from '../http/http-fault.ts';
import { type RetryOptions, retrying } from '../http/retry.ts';
import type { InSlot } from '../service/client.ts';
import { type HashedFile, identityOf, sameIdentity } from '../source/hash.ts';
import { changedSource, unreadableSource } from '../source/read.ts';
import { type Cargo, type Compression, createEncoder } from './compression.ts';

/** Conflicts at the same offset. When two clients push the same file, it moves with the progress of the other one. */
const MOST_CONFLICTS_IN_A_ROW = 10;

/** Sends a file to its end, over as many tries as it takes. Throws what retrying() throws. */
export async function sendFile(
  send: SendOptions,
  retries: Omit<RetryOptions, 'asked' | 'madeProgress'>,
): Promise<void> {
  let acknowledgedBytes = -1;
  let bytesAtLastFault = -1;
  let conflicts = 0;
  let offsetAtConflict = -1;
  let lastOffset = -1;
  let { offsetBytes } = send; // for the first try only
  const onAcknowledged = (offsetBytes: number) => {
    acknowledgedBytes = Math.max(acknowledgedBytes, offsetBytes);
    lastOffset = offsetBytes;
    send.onAcknowledged(offsetBytes);
  };
  const attempt = async () => {
    try {
      await sendOnce({ ...send, offsetBytes, onAcknowledged, onAnswered: retries.faults.answered });
    } catch (error) {
      offsetBytes = undefined;
      const conflict = error instanceof HttpFault && error.status === 409 && !error.isForeign;
      if (!conflict || lastOffset !== offsetAtConflict) conflicts = 0;
      if (conflict) {
        conflicts += 1;
        offsetAtConflict = lastOffset;
        if (conflicts > MOST_CONFLICTS_IN_A_ROW) {
          throw new UploaderError(
            'bug',
            `${error.message}, although each try started at the offset of the service, which did not move.`,
            { cause: error },
          );
        }
      }
      throw error;
    }
  };
  const madeProgress = () => {
    const moved = acknowledgedBytes > bytesAtLastFault;
    bytesAtLastFault = acknowledgedBytes;
    return moved;
  };
  await retrying(() => send.inSlot(attempt), { ...retries, asked: 'upload', madeProgress });
}

type SendOptions = {
  file: HashedFile;
  uploadUrl: string;
  /** The offset of the upload, when the service has just reported it; otherwise the service is asked. */
  offsetBytes?: number | undefined;
  headers: () => Record<string, string>;
  chunkSizeBytes: number;
  inSlot: InSlot;
  compression: Compression;
  stallTimeoutMs: number;
  signal: AbortSignal;
  /** Called before the last bytes of the file are sent; what it throws ends the push of the file. */
  beforeLastBytes: () => Promise<void>;
  /** See StreamBody. */
  onBytes: (bytes: number, wireBytes: number) => void;
  /** See StreamBody. */
  pauseMs: (bytes: number) => number;
  /** The service holds this much of the file. */
  onAcknowledged: (offsetBytes: number) => void;
};

const TRY_IS_OVER = new Error('This try is over.');

/**
 * One try: HEAD for the offset if it is not known, then PATCH requests to the end. tus-js-client does the
 * protocol. Retries are decided by the caller: the library's own end after nine seconds, treat 429 as final,
 * and start the file over after a 502 to HEAD. Success means only that all bytes were sent: the state of the
 * run says the rest.
 */
async function sendOnce(options: SendOptions & { onAnswered: (method: string) => void }): Promise<void> {
  const { signal } = options;
  signal.throwIfAborted();
  // Not AbortSignal.any(): the one signal of a push would gather a dependent for each of 10,000 files.
  const ended = new AbortController();
  const onAbort = () => ended.abort(signal.reason);
  signal.addEventListener('abort', onAbort);
  let cargo: Cargo | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      let lastAnswer: ExchangeResponse | undefined;
      const { compression } = options;
      let startedMs = 0;
      let wireBytes = 0;
      const flow = {
        ...options,
        onBytes: (bytes: number, onWire: number) => {
          wireBytes += onWire;
          options.onBytes(bytes, onWire);
        },
        next: async (leftBytes: number) => {
          cargo = await compression.next(options.file, leftBytes);
          startedMs = performance.now();
          wireBytes = 0;
          return cargo;
        },
      };
      // The source is ours (`fileReader`); the library only checks that one exists.
      const upload = new Upload(Buffer.from(options.file.path), {
        uploadUrl: options.uploadUrl,
        chunkSize: options.chunkSizeBytes,
        retryDelays: null,
        storeFingerprintForResuming: false,
        fingerprint: async () => options.file.sha256,
        fileReader: { openFile: async () => fileSlices(options.file, flow) },
        httpStack: tusHttpStack({
          stallTimeoutMs: options.stallTimeoutMs,
          headers: options.headers,
          signal: ended.signal,
          known:
            options.offsetBytes === undefined
              ? undefined
              : { offsetBytes: options.offsetBytes, sizeBytes: options.file.identity.bytes },
        }),
        onAfterResponse: (_request, response) => {
          lastAnswer = response.getUnderlyingObject();
          const offset = Number(response.getHeader('Upload-Offset') ?? Number.NaN);
          if (response.getStatus() >= 300 || !Number.isInteger(offset)) return;
          options.onAcknowledged(offset);
          if (cargo === undefined) {
            if (options.offsetBytes === undefined) options.onAnswered('HEAD'); // else it was not sent
            return;
          }
          options.onAnswered('PATCH');
          compression.sent({ ...cargo, wireBytes, tookMs: performance.now() - startedMs });
          cargo = undefined;
        },
        onChunkComplete: (chunkBytes) => {
          // The library would repeat the same request at once, without end.
          if (chunkBytes <= 0 && lastAnswer) reject(new HttpFault(lastAnswer, 'it took none of the bytes'));
        },
        onSuccess: () => resolve(),
        onError: (error) => reject(unwrap(error)),
      });
      upload.start();
    });
  } catch (error) {
    const { compression } = options;
    if (cargo !== undefined) compression.failed();
    if (cargo === undefined || !(error instanceof HttpFault) || !compression.refused(cargo, error))
      throw error;
    return sendOnce({ ...options, offsetBytes: undefined });
  } finally {
    // Ends requests that are still open.
    signal.removeEventListener('abort', onAbort);
    ended.abort(TRY_IS_OVER);
  }
}

/** The library wraps a fault into a text; `judge` needs the fault itself. */
function unwrap(error: Error): unknown {
  if (!(error instanceof DetailedError)) return error;
  if (error.causingError) return error.causingError;
  const response: ExchangeResponse | undefined = error.originalResponse?.getUnderlyingObject();
  return response ? new HttpFault(response) : error;
}

// Small enough that the stall watchdog sees progress on a slow connection, large enough that reads are cheap.
const READ_BYTES = 64 * 1024;
/** A compressed body leaves in smaller pieces than it is read in. */
const READ_TO_COMPRESS_BYTES = 256 * 1024;

type Flow = Pick<StreamBody, 'onBytes' | 'pauseMs'> & Pick<SendOptions, 'beforeLastBytes'>;

/**
 * The file as a source for tus-js-client. A slice is read from disk when it is sent, and only if the file is
 * still the one that was hashed. It may be shorter than the library asks for: the library continues at the offset
 * of the answer. (The library's own source does not check the file, keeps descriptors open when a
 * request fails, and hangs when the file has become shorter.)
 */
function fileSlices(
  file: HashedFile,
  flow: Flow & { next: (leftBytes: number) => Promise<Cargo> },
): FileSource {
  return {
    size: file.identity.bytes,
    slice: async (start, end) => {
      const cargo = await flow.next(Math.min(end, file.identity.bytes) - start);
      return {
        value: sliceBody(file, start, cargo, flow),
        done: start + cargo.bytes >= file.identity.bytes,
      };
    },
    close: () => {},
  };
}

/** tus-js-client reads `size` and passes the rest unchanged to the HTTP stack. */
export type SliceBody = StreamBody & { size: number };

function sliceBody(file: HashedFile, start: number, { bytes, isCompressed }: Cargo, flow: Flow): SliceBody {
  return {
    size: bytes,
    sizeBytes: bytes,
    onBytes: flow.onBytes,
    pauseMs: flow.pauseMs,
    ...(isCompressed ? { encoder: createEncoder } : {}),
    tooShort: () => changedSource(file.path),
    unreadable: (cause) => unreadableSource(file.path, cause),
    open: async () => {
      if (start + bytes >= file.identity.bytes) await flow.beforeLastBytes();
      const handle = await open(file.path, 'r').catch((error: unknown) => {
        throw unreadableSource(file.path, error);
      });
      if (!sameIdentity(identityOf(await handle.stat({ bigint: true })), file.identity)) {
        await handle.close();
        throw changedSource(file.path);
      }
      const highWaterMark = isCompressed ? READ_TO_COMPRESS_BYTES : READ_BYTES;
      return handle.createReadStream({ start, end: start + bytes - 1, highWaterMark });
    },
  };
}

type TusHttpStackOptions = {
  stallTimeoutMs: number;
  /** Headers besides those of the library; called for each request. */
  headers: () => Record<string, string>;
  signal: AbortSignal;
  /**
   * The offset that HEAD would report. The library always asks; then this is the answer, and nothing is sent.
   */
  known?: { offsetBytes: number; sizeBytes: number } | undefined;
};

/**
 * Sends the requests of tus-js-client with `exchange`, as all others. The library's own stack has no
 * time-out, hangs when an answer is cut in its body, and sends a PATCH that was aborted before it started.
 */
export function tusHttpStack(options: TusHttpStackOptions): HttpStack {
  return {
    getName: () => 'uploader',
    createRequest: (method, url) => createRequest(method, url, options),
  };
}

function createRequest(
  method: string,
  url: string,
  { stallTimeoutMs, signal, known, headers: ownHeaders }: TusHttpStackOptions,
): HttpRequest {
  const headers: Record<string, string> = {};
  const send = async (body: SliceBody | null) => {
    signal.throwIfAborted();
    if (method === 'HEAD' && known !== undefined) {
      return {
        method,
        url,
        status: 200,
        headers: {
          'upload-offset': String(known.offsetBytes),
          'upload-length': String(known.sizeBytes),
        },
        body: '',
      };
    }
    const coding = body?.encoder === undefined ? {} : { 'Content-Encoding': 'zstd' };
    const allHeaders = () => ({ ...ownHeaders(), ...headers, ...coding });
    return exchange({ method, url, headers: allHeaders, ...(body ? { body } : {}), signal, stallTimeoutMs });
  };
  return {
    getMethod: () => method,
    getURL: () => url,
    setHeader: (name, value) => {
      headers[name] = value;
    },
    getHeader: (name) => headers[name],
    setProgressHandler: () => {},
    send: async (body: SliceBody | null) => toTusResponse(await send(body)),
    // `signal` ends a request; the library itself aborts none.
    abort: async () => {},
    getUnderlyingObject: () => null,
  };
}

function toTusResponse(response: ExchangeResponse): HttpResponse {
  return {
    getStatus: () => response.status,
    getHeader: (name) => {
      const value = response.headers[name.toLowerCase()];
      return Array.isArray(value) ? value[0] : value;
    },
    getBody: () => response.body,
    getUnderlyingObject: () => response,
  };
}
