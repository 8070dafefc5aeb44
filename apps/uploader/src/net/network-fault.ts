/** No whole answer came. `code` is Node's (ECONNREFUSED, CERT_HAS_EXPIRED, HPE_...) or ESTALLED. */
export class NetworkFault extends Error {
  override readonly name = 'NetworkFault';
  readonly code: string;

  constructor(code: string, method: string, url: string, detail: string, options?: { cause: unknown }) {
    super(`${method} ${url} got no answer: ${detail}`, options);
    this.code = code;
  }

  static from(error: unknown, method: string, url: string): unknown {
    if (!(error instanceof Error) || error instanceof NetworkFault) return error;
    const first = firstOf(error);
    const code = 'code' in first && typeof first.code === 'string' ? first.code : 'UNKNOWN';
    return new NetworkFault(code, method, url, first.message || code, { cause: error });
  }
}

/** A name with several addresses fails with one error for each: the first one tells enough. */
function firstOf(error: Error): Error {
  const inner = error instanceof AggregateError ? error.errors[0] : null;
  return inner instanceof Error ? inner : error;
}
