import type { HttpRequest, HttpResponse, HttpStack } from 'tus-js-client';
import { type ExchangeResponse, exchange } from '../net/exchange.ts';
import type { SliceBody } from './file-slices.ts';

/**
 * tus-js-client's requests, sent the way all others are. The library's own stack has no time-out, never
 * ends when an answer is cut in its body, and sends a PATCH that was aborted before it began.
 */
export function tusHttpStack(stallTimeoutMs: number, signal: AbortSignal): HttpStack {
  return {
    getName: () => 'uploader',
    createRequest: (method, url) => createRequest(method, url, stallTimeoutMs, signal),
  };
}

function createRequest(
  method: string,
  url: string,
  stallTimeoutMs: number,
  signal: AbortSignal,
): HttpRequest {
  const headers: Record<string, string> = {};
  return {
    getMethod: () => method,
    getURL: () => url,
    setHeader: (name, value) => {
      headers[name] = value;
    },
    getHeader: (name) => headers[name],
    setProgressHandler: () => {},
    send: async (body: SliceBody | null) =>
      toTusResponse(
        await exchange({ method, url, headers, ...(body ? { body } : {}), signal, stallTimeoutMs }),
      ),
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
