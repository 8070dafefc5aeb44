import type { HttpRequest, HttpResponse, HttpStack } from 'tus-js-client';
import { type ExchangeResponse, exchange } from '../http/exchange.ts';
import type { SliceBody } from './file.ts';

type TusHttpStackOptions = {
  stallTimeoutMs: number;
  /** Besides those of the library, of the moment at which a request is sent. */
  headers: () => Record<string, string>;
  signal: AbortSignal;
  /** What HEAD would tell. The library always asks; then the answer is this, and nothing is sent. */
  standing?: { offsetBytes: number; sizeBytes: number } | undefined;
};

/**
 * tus-js-client's requests, sent the way all others are. The library's own stack has no time-out, never
 * ends when an answer is cut in its body, and sends a PATCH that was aborted before it began.
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
  { stallTimeoutMs, signal, standing, headers: ownHeaders }: TusHttpStackOptions,
): HttpRequest {
  const headers: Record<string, string> = {};
  const send = async (body: SliceBody | null) => {
    signal.throwIfAborted();
    if (method === 'HEAD' && standing !== undefined) {
      return {
        method,
        url,
        status: 200,
        headers: {
          'upload-offset': String(standing.offsetBytes),
          'upload-length': String(standing.sizeBytes),
        },
        body: '',
      };
    }
    const allHeaders = () => ({ ...ownHeaders(), ...headers });
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
    // The signal ends a request; the library has nothing of its own to abort.
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
