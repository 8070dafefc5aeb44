import {
  type ClientRequest,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http';
import { request as httpsRequest } from 'node:https';
import { pipeline, type Readable, Transform } from 'node:stream';
import { NetworkFault } from './network-fault.ts';

export type StreamBody = {
  sizeBytes: number;
  open: () => Promise<Readable>;
  /** What to throw when the stream ends before `sizeBytes`, or fails to be read. */
  tooShort: () => Error;
  unreadable: (cause: unknown) => Error;
  onBytes: (bytes: number) => void;
};

export type ExchangeRequest = {
  method: string;
  url: string;
  headers: Record<string, string>;
  body?: string | StreamBody;
  signal: AbortSignal;
  /** Without a byte in either direction for this long, the exchange is given up. */
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
  const { method, url, body, signal, stallTimeoutMs } = options;
  signal.throwIfAborted();
  const stream = typeof body === 'object' ? await body.open() : null;
  return new Promise((resolve, reject) => {
    const send = url.startsWith('https:') ? httpsRequest : httpRequest;
    const lengthBytes = typeof body === 'string' ? Buffer.byteLength(body) : body?.sizeBytes;
    const headers = {
      ...options.headers,
      ...(lengthBytes === undefined ? {} : { 'Content-Length': lengthBytes }),
    };
    const request = send(url, { method, headers });

    const stalled = new NetworkFault('ESTALLED', method, url, `nothing moved for ${stallTimeoutMs / 1000} s`);
    const watchdog = setTimeout(() => fail(stalled), stallTimeoutMs);
    const onAbort = () => fail(signal.reason);
    signal.addEventListener('abort', onAbort);
    const settle = () => {
      clearTimeout(watchdog);
      signal.removeEventListener('abort', onAbort);
      // An answer that came before the whole body was sent leaves both open.
      if (stream && !stream.readableEnded) request.destroy();
      stream?.destroy();
    };
    function fail(error: unknown): void {
      settle();
      request.destroy();
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
          resolve({ method, url, status: response.statusCode ?? 0, headers: response.headers, body: text });
        },
        (error: unknown) => fail(NetworkFault.from(error, method, url)),
      );
    });
    if (stream && typeof body === 'object') {
      sendStream(stream, body, request, () => watchdog.refresh(), fail);
    } else request.end(body);
  });
}

function sendStream(
  stream: Readable,
  body: StreamBody,
  request: ClientRequest,
  onMoved: () => void,
  fail: (error: unknown) => void,
): void {
  let sentBytes = 0;
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      sentBytes += chunk.length;
      body.onBytes(chunk.length);
      onMoved();
      done(null, chunk);
    },
    flush(done) {
      // Without this the request would wait for bytes that never come.
      if (sentBytes < body.sizeBytes) fail(body.tooShort());
      done();
    },
  });
  // pipeline() hands a fault of the request up to the source as well; only the source's own counts here.
  let requestEnded = false;
  const end = () => {
    requestEnded = true;
  };
  request.once('error', end).once('close', end);
  stream.once('error', (error) => {
    if (!requestEnded) fail(body.unreadable(error));
  });
  pipeline(stream, counter, request, () => {});
}

const LONGEST_ANSWER_BYTES = 64 * 2 ** 20;

async function collect(response: IncomingMessage, onMoved: () => void): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    onMoved();
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > LONGEST_ANSWER_BYTES)
      throw new Error(`the answer is longer than ${LONGEST_ANSWER_BYTES} bytes`);
  }
  return Buffer.concat(chunks).toString('utf8');
}
