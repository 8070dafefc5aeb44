import {
  type ClientRequest,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http';
import { globalAgent, request as httpsRequest } from 'node:https';
import type { Readable, Transform } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { keyPairFault } from 'wire';
import { OutOfTime, UploaderError } from '../errors.ts';

type ExchangeRequest = {
  method: string;
  url: string;
  /** Called for each request, and again after a 401: the token may have been replaced meanwhile. */
  headers: () => Record<string, string>;
  body?: string | StreamBody;
  signal: AbortSignal;
  /** The exchange is ended when no byte moved for this long; a slow trickle of an answer does not count. */
  stallTimeoutMs: number;
};

export type ExchangeResponse = {
  method: string;
  url: string;
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
};

/**
 * One HTTP request and its whole answer, whatever its status. Rejects with a NetworkFault when there is no
 * whole answer, with the signal's reason when aborted, and with the body's own error when that cannot be
 * read. node:http and not fetch(): a body must be streamed and counted, and must be able to stop in the
 * middle; and a run key such as "a/../b" must be sent as it was encoded. Redirects are not followed: they
 * would send the token to another host.
 */
export async function exchange(options: ExchangeRequest): Promise<ExchangeResponse> {
  let headers = options.headers();
  for (;;) {
    const response = await exchangeOnce(options, headers);
    const now = options.headers();
    if (response.status !== 401 || now.Authorization === headers.Authorization) return response;
    headers = now;
  }
}

async function exchangeOnce(
  options: ExchangeRequest,
  given: Record<string, string>,
): Promise<ExchangeResponse> {
  const { method, url, body, signal, stallTimeoutMs } = options;
  signal.throwIfAborted();
  const stream = typeof body === 'object' ? await body.open() : null;
  if (signal.aborted) stream?.destroy();
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const send = url.startsWith('https:') ? httpsRequest : httpRequest;
    const encoder = typeof body === 'object' ? body.encoder?.() : undefined;
    const lengthBytes = typeof body === 'string' ? Buffer.byteLength(body) : body?.sizeBytes;
    const headers = {
      ...given,
      // The length of a compressed body is known when it is sent: its transfer coding is chunked.
      ...(lengthBytes === undefined || encoder !== undefined ? {} : { 'Content-Length': lengthBytes }),
    };
    const request = send(url, { method, headers });

    const watchdog = setTimeout(() => {
      fail(new NetworkFault('ESTALLED', method, url, `nothing moved for ${stallTimeoutMs / 1000} s`));
    }, stallTimeoutMs);
    const onAbort = () => fail(signal.reason);
    signal.addEventListener('abort', onAbort);
    const settle = () => {
      clearTimeout(watchdog);
      signal.removeEventListener('abort', onAbort);
    };
    function fail(error: unknown): void {
      settle();
      request.destroy();
      stream?.destroy();
      encoder?.destroy();
      reject(error);
    }
    let answering = false;
    request.on('error', (error) => {
      // A server that refuses early closes while the body is still being sent: its answer counts.
      if (!answering) fail(NetworkFault.from(error, method, url));
    });
    request.on('response', (response) => {
      answering = true;
      watchdog.refresh();
      collect(response, () => watchdog.refresh()).then(
        (text) => {
          settle();
          // An answer before the end of the body: the rest is not needed, and the connection cannot be used
          // again.
          if (!allSent()) {
            request.destroy();
            stream?.destroy();
            encoder?.destroy();
          }
          resolve({ method, url, status: response.statusCode ?? 0, headers: response.headers, body: text });
        },
        (error: unknown) => fail(NetworkFault.from(error, method, url)),
      );
    });
    let allSent = () => true;
    if (stream && typeof body === 'object') {
      allSent = sendStream(stream, encoder, body, request, () => watchdog.refresh(), fail);
    } else request.end(body);
  });
}

const LONGEST_ANSWER_BYTES = 64 * 2 ** 20;
/** Fewer bytes of an answer do not count as progress: at a byte a second it would take hours. */
const PROGRESS_BYTES = 1024;

function collect(response: IncomingMessage, onMoved: () => void): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let reportedBytes = 0;
    response.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes - reportedBytes >= PROGRESS_BYTES) {
        reportedBytes = bytes;
        onMoved();
      }
      if (bytes > LONGEST_ANSWER_BYTES) {
        reject(new Error(`the answer is longer than ${LONGEST_ANSWER_BYTES} bytes`));
      }
    });
    response.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    // An answer that is cut in its body ends with 'error' (ECONNRESET, "aborted"), never with 'end'.
    response.on('error', reject);
  });
}

/** The body of a request that is read while it is sent. */
export type StreamBody = {
  sizeBytes: number;
  open: () => Promise<Readable>;
  /** Compresses the body on its way; the caller sets the header Content-Encoding. */
  encoder?: () => Transform;
  /** `bytes` of the stream are handed to the network, as `wireBytes`. */
  onBytes: (bytes: number, wireBytes: number) => void;
  /** How long to wait after this number of bytes on the wire before more may be sent (--bwlimit). */
  pauseMs: (wireBytes: number) => number;
  /** What to throw when the stream ends before `sizeBytes`, or fails to be read. */
  tooShort: () => Error;
  unreadable: (cause: unknown) => Error;
};

/**
 * Sends the stream as the body of the request. Returns a function that says whether all of it has been
 * written. Code that destroys the request must destroy stream and encoder too. Not pipeline(): its listeners outlive
 * a request by some garbage collections, which cost 100 MB for 10,000 small files.
 */
function sendStream(
  stream: Readable,
  encoder: Transform | undefined,
  body: StreamBody,
  request: ClientRequest,
  onMoved: () => void,
  fail: (error: unknown) => void,
): () => boolean {
  const source = encoder ?? stream;
  let readBytes = 0;
  let reportedBytes = 0;
  let isHeldBack = false;
  let isSent = false;
  const resume = () => {
    onMoved();
    if (!isHeldBack && !request.writableNeedDrain) source.resume();
  };
  source.on('data', (chunk: Buffer) => {
    if (encoder === undefined) readBytes += chunk.length;
    // Of a compressed body: what the encoder has taken, so that the last of it counts at the end.
    const bytes = readBytes - reportedBytes;
    reportedBytes = readBytes;
    body.onBytes(bytes, chunk.length);
    const pauseMs = body.pauseMs(chunk.length);
    isHeldBack = pauseMs > 0;
    if (!request.write(chunk) || isHeldBack) source.pause();
    if (!isHeldBack) return;
    setTimeout(() => {
      isHeldBack = false;
      resume();
    }, pauseMs);
  });
  request.on('drain', resume);
  const end = () => {
    isSent = true;
    request.end();
  };
  stream.on('end', () => {
    // Without this check the request would wait for ever for the missing bytes.
    if (readBytes < body.sizeBytes) fail(body.tooShort());
    else if (encoder === undefined) end();
    else encoder.end();
  });
  stream.on('error', (error) => fail(body.unreadable(error)));
  if (encoder !== undefined) {
    stream.on('data', (chunk: Buffer) => {
      readBytes += chunk.length;
      if (!encoder.write(chunk)) stream.pause();
    });
    encoder.on('drain', () => stream.resume());
    encoder.on('end', end);
    encoder.on('error', fail);
  }
  return () => isSent;
}

/**
 * How long the whole command may still take, the signal that ends everything when that is over, and the sentence that
 * then says which limit it was.
 */
export type TimeLimit = { signal: AbortSignal; remainingMs: () => number; over: string };

export const CONTINUES = 'Run the same command again: it continues from here.';

export function startTimeLimit(
  maxDurationMs: number,
  interrupt: AbortSignal,
  over = 'Out of time (--max-duration).',
): TimeLimit {
  const endsAtMs = performance.now() + maxDurationMs;
  const ended = new AbortController();
  setTimeout(() => ended.abort(new OutOfTime(`${over} ${CONTINUES}`)), maxDurationMs).unref();
  return {
    signal: AbortSignal.any([interrupt, ended.signal]),
    remainingMs: () => endsAtMs - performance.now(),
    over,
  };
}

/** Rejects with the reason of the signal, which says why, and not with an AbortError. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

/** PEM texts. */
type TlsIdentity = { ca: string | null; clientCert: string | null; clientKey: string | null };

/**
 * For every connection of this process: an additional authority to trust, and the client certificate.
 */
export function useTlsIdentity({ ca, clientCert, clientKey }: TlsIdentity): void {
  if (ca !== null) setDefaultCACertificates([...getCACertificates('default'), ca]);
  if (clientCert === null || clientKey === null) return;
  const fault = keyPairFault(clientCert, clientKey);
  // Otherwise the first request fails with what OpenSSL says.
  if (fault !== null) throw new UploaderError('usage', `--cert and --key ${fault}.`);
  Object.assign(globalAgent.options, { cert: clientCert, key: clientKey });
}

/** There was no complete answer. `code` is Node's (ECONNREFUSED, CERT_HAS_EXPIRED, HPE_...) or ESTALLED. */
export class NetworkFault extends Error {
  override readonly name = 'NetworkFault';
  readonly code: string;
  readonly host: string;
  /** What a forward proxy answered to CONNECT (NaN when that was not HTTP); null when none refused. */
  readonly proxyStatus: number | null;

  constructor(code: string, method: string, url: string, detail: string, options?: { cause: unknown }) {
    super(factOf(code, method, url, readable(detail)), options);
    this.code = code;
    this.host = new URL(url).host;
    const cause = options?.cause;
    const isRefused = code === 'ERR_PROXY_TUNNEL' && cause instanceof Error && 'statusCode' in cause;
    this.proxyStatus = isRefused ? Number(cause.statusCode) : null;
  }

  static from(error: unknown, method: string, url: string): unknown {
    if (!(error instanceof Error) || error instanceof NetworkFault) return error;
    const first = firstOf(error);
    const code = 'code' in first && typeof first.code === 'string' ? first.code : 'UNKNOWN';
    return new NetworkFault(code, method, url, first.message || code, { cause: first });
  }
}

/**
 * Node names a proxy by the address that HTTPS_PROXY holds, with its password; of OpenSSL it has a line with places in
 * the source.
 */
function readable(detail: string): string {
  const [, routines, reason] = /:error:[0-9A-F]+:([^:]+):[^:]*:([^:]+):/.exec(detail) ?? [];
  if (reason !== undefined) return `${routines}: ${reason}`;
  return detail.replace(/\/\/[^/\s]*@/g, '//');
}

const FACTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'refuses connections',
  ECONNRESET: 'closed the connection',
  EPIPE: 'closed the connection',
  ETIMEDOUT: 'cannot be reached',
  EHOSTUNREACH: 'cannot be reached',
  ENETUNREACH: 'cannot be reached',
  ENOTFOUND: 'is a name that the name server does not know',
  EAI_AGAIN: 'is a name that the name server does not resolve at the moment',
  ESTALLED: 'does not answer',
};

/** What Node says is added when it says more: with a proxy, another address than that of the service. */
function factOf(code: string, method: string, url: string, detail: string): string {
  const fact = FACTS[code];
  if (fact === undefined) return `${method} ${url} got no answer: ${detail}`;
  const { host } = new URL(url);
  const isSaid = code === 'ECONNREFUSED' && detail.includes(host);
  return `${host} ${fact}${isSaid ? '' : ` (${detail})`}`;
}

/** A name with several addresses fails with one error for each: the first one is enough. */
function firstOf(error: Error): Error {
  const inner = error instanceof AggregateError ? error.errors[0] : null;
  return inner instanceof Error ? inner : error;
}
