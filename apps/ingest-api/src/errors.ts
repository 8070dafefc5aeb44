import { UnusableDatabase } from 'db-schema';
import { printableLines } from 'score-lines';

/**
 * Everything that can go wrong on the way of a run, with the HTTP status and whether the same request may
 * succeed later. One table, used by the HTTP answers, the loader and the docs.
 */
export const ERROR_CODES = {
  invalid_request: { status: 400, retryable: false, title: 'The request is not valid' },
  unauthenticated: { status: 401, retryable: false, title: 'A valid token is needed' },
  forbidden: { status: 403, retryable: false, title: 'The token may not do that' },
  not_found: { status: 404, retryable: false, title: 'No such thing, or not for this token' },
  unknown_address: { status: 404, retryable: false, title: 'There is nothing at this address' },
  method_not_allowed: { status: 405, retryable: false, title: 'This address does not take that method' },
  request_timeout: { status: 408, retryable: true, title: 'The request did not come in time' },
  conflict: { status: 409, retryable: false, title: 'The state does not allow it' },
  offset_conflict: { status: 409, retryable: true, title: 'The offset is not where the upload stands' },
  upload_gone: { status: 410, retryable: true, title: 'The upload is gone; declare the run again' },
  precondition_failed: {
    status: 412,
    retryable: false,
    title: 'A header asks for another state, or is missing',
  },
  too_large: { status: 413, retryable: false, title: 'More than is allowed' },
  unsupported_media_type: { status: 415, retryable: false, title: 'Not a content type that is taken here' },
  expectation_failed: { status: 417, retryable: false, title: 'An expectation that is not met here' },
  rate_limited: { status: 429, retryable: true, title: 'Too many requests for now' },
  upload_locked: { status: 423, retryable: true, title: 'Another request is writing this upload' },
  headers_too_large: { status: 431, retryable: false, title: 'The headers are larger than is allowed' },
  internal: { status: 500, retryable: true, title: 'A fault of the service' },
  not_implemented: { status: 501, retryable: false, title: 'Not something that this server can do' },
  overloaded: { status: 503, retryable: true, title: 'The service is busy with other requests' },
  database_unavailable: { status: 503, retryable: true, title: 'The database cannot be reached' },
  storage_fault: { status: 503, retryable: true, title: 'The disk did not take the bytes' },
  shutting_down: { status: 503, retryable: true, title: 'The service is stopping' },
  quota_exceeded: { status: 507, retryable: true, title: 'The token has too much on its way' },
  insufficient_storage: { status: 507, retryable: true, title: 'The disk has no room for this' },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface ErrorContext {
  readonly cause?: unknown;
  /** Seconds after which a retry makes sense; sent as `Retry-After`. */
  readonly retryAfterSeconds?: number;
}

/** A fault that a caller is told of: a code of the table above, and a sentence that says what to do next. */
export class IngestError extends Error {
  override readonly name = 'IngestError';
  readonly code: ErrorCode;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, detail: string, { cause, retryAfterSeconds }: ErrorContext = {}) {
    super(detail, cause === undefined ? undefined : { cause });
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

const SQLSTATE = /^[0-9A-Z]{5}$/;

/** The SQLSTATE of a PostgreSQL error, looked for along the chain of causes. */
export function sqlStateOf(error: unknown): string | undefined {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code } = cause as { code?: unknown };
    if (typeof code === 'string' && SQLSTATE.test(code)) return code;
  }
  return undefined;
}

/** SQLSTATE classes and codes that say the server or the way to it is at fault, not the statement. */
const DATABASE_UNAVAILABLE = [/^08/, /^53/, /^57P/, /^58/, /^25006$/, /^40001$/, /^40P01$/, /^55P03$/];
const CONNECTION_FAULTS = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
]);
const CONNECTION_MESSAGES =
  /Connection terminated|timeout exceeded when trying to connect|timeout expired|Client has encountered a connection error/;

/** True when PostgreSQL cannot be reached or is not serving, so that the same statement may work later. */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (error instanceof UnusableDatabase) return true; // an operator changed a role or a pooler under our feet
  const state = sqlStateOf(error);
  if (state !== undefined) return DATABASE_UNAVAILABLE.some((pattern) => pattern.test(state));
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (CONNECTION_FAULTS.has(String((cause as { code?: unknown }).code))) return true;
    if (CONNECTION_MESSAGES.test(cause.message)) return true;
  }
  return false;
}

/** An error and its causes in one line, for logs and for `load_attempt.error`. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (let cause: unknown = error; cause !== undefined && cause !== null; cause = (cause as Error).cause) {
    if (!(cause instanceof Error)) {
      parts.push(String(cause));
      break;
    }
    const { code } = cause as { code?: unknown };
    parts.push(
      typeof code === 'string' && !(cause instanceof IngestError)
        ? `${cause.message} (${code})`
        : cause.message,
    );
  }
  return printableLines(parts.join(': '));
}
