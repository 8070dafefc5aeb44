import type { HttpRequest, HttpResponse, HttpStack } from 'tus-js-client';
import { type ExchangeResponse, exchange } from '../http/exchange.ts';
import type { SliceBody } from './file.ts';

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
