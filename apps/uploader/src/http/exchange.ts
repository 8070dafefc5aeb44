import {
  type ClientRequest,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http';
import { globalAgent, request as httpsRequest } from 'node:https';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { OutOfTime } from '../results/result.ts';
import { NetworkFault } from './faults.ts';

type ExchangeRequest = {
  method: string;
  url: string;
  /** Asked for with each request; once more after a 401, whose token may have been replaced meanwhile. */
  headers: () => Record<string, string>;
  body?: string | StreamBody;
  signal: AbortSignal;
  /** The exchange is given up when nothing moved for this long; an answer that drips does not move. */
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
 * read. node:http and not fetch(): a body must stream, be counted, and stop in the middle without a trace;
 * and a run key such as "a/../b" must travel as it was encoded. Redirects are not followed: the token would
 * go wherever they point.
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
    const lengthBytes = typeof body === 'string' ? Buffer.byteLength(body) : body?.sizeBytes;
    const headers = {
      ...given,
      ...(lengthBytes === undefined ? {} : { 'Content-Length': lengthBytes }),
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
      reject(error);
    }
    let answering = false;
    request.on('error', (error) => {
      // A server that refuses early closes while the body is still being sent: what it said counts.
      if (!answering) fail(NetworkFault.from(error, method, url));
    });
    request.on('response', (response) => {
      answering = true;
      watchdog.refresh();
      collect(response, () => watchdog.refresh()).then(
        (text) => {
          settle();
          // An answer before the whole body was sent: nobody wants the rest, and the connection is spoilt.
          if (!allSent()) {
            request.destroy();
            stream?.destroy();
          }
          resolve({ method, url, status: response.statusCode ?? 0, headers: response.headers, body: text });
        },
        (error: unknown) => fail(NetworkFault.from(error, method, url)),
      );
    });
    let allSent = () => true;
    if (stream && typeof body === 'object') {
      allSent = sendStream(stream, body, request, () => watchdog.refresh(), fail);
    } else request.end(body);
  });
}

const LONGEST_ANSWER_BYTES = 64 * 2 ** 20;
/** An answer moves when this much more of it has come: at a byte a second it would take hours. */
const MOVED_BYTES = 1024;

function collect(response: IncomingMessage, onMoved: () => void): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let toldBytes = 0;
    response.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes - toldBytes >= MOVED_BYTES) {
        toldBytes = bytes;
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
  onBytes: (bytes: number) => void;
  /** How long to wait after so many bytes before more may be sent (--bwlimit). */
  pauseMs: (bytes: number) => number;
  /** What to throw when the stream ends before `sizeBytes`, or fails to be read. */
  tooShort: () => Error;
  unreadable: (cause: unknown) => Error;
};

/**
 * Sends the stream as the request's body, to its end. Returns whether all of it is on its way by now. Whoever
 * gives the request up destroys the stream too. By hand and not by pipeline(): its watch over three streams
 * outlives a request by some collections, which for 10,000 small files came to 100 MB.
 */
function sendStream(
  stream: Readable,
  body: StreamBody,
  request: ClientRequest,
  onMoved: () => void,
  fail: (error: unknown) => void,
): () => boolean {
  let sentBytes = 0;
  let isHeldBack = false;
  const goOn = () => {
    onMoved();
    if (!isHeldBack && !request.writableNeedDrain) stream.resume();
  };
  stream.on('data', (chunk: Buffer) => {
    sentBytes += chunk.length;
    body.onBytes(chunk.length);
    const pauseMs = body.pauseMs(chunk.length);
    isHeldBack = pauseMs > 0;
    if (!request.write(chunk) || isHeldBack) stream.pause();
    if (!isHeldBack) return;
    setTimeout(() => {
      isHeldBack = false;
      goOn();
    }, pauseMs);
  });
  request.on('drain', goOn);
  stream.on('end', () => {
    // Without this check the request would wait for bytes that never come.
    if (sentBytes < body.sizeBytes) fail(body.tooShort());
    else request.end();
  });
  stream.on('error', (error) => fail(body.unreadable(error)));
  return () => sentBytes >= body.sizeBytes;
}

/** How long the whole command may still take, and the signal that ends everything when that is over. */
export type TimeLimit = { signal: AbortSignal; remainingMs: () => number };

export function startTimeLimit(maxDurationMs: number, interrupt: AbortSignal): TimeLimit {
  const endsAtMs = performance.now() + maxDurationMs;
  const ended = new AbortController();
  setTimeout(() => {
    ended.abort(
      new OutOfTime('Out of time (--max-duration). Run the same command again: it goes on from here.'),
    );
  }, maxDurationMs).unref();
  return {
    signal: AbortSignal.any([interrupt, ended.signal]),
    remainingMs: () => endsAtMs - performance.now(),
  };
}

/** Rejects with the signal's own reason, which says why, and not with a mere AbortError. */
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
 * For every connection of this process: an authority to trust besides the usual ones, and the certificate to
 * show to a service that asks for one.
 */
export function useTlsIdentity({ ca, clientCert, clientKey }: TlsIdentity): void {
  if (ca !== null) setDefaultCACertificates([...getCACertificates('default'), ca]);
  if (clientCert !== null && clientKey !== null)
    Object.assign(globalAgent.options, { cert: clientCert, key: clientKey });
}
