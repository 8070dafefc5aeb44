import { UnusableDatabase } from 'db-schema';
import { type ErrorCode, printableLines } from 'wire';

interface ErrorContext {
  readonly cause?: unknown;
  /** The header `Retry-After`; default: that of the code. */
  readonly retryAfterSeconds?: number;
}

/**
 * An error that the caller receives: a code of the table in `wire`, and sentences that say what is wrong and
 * what to do.
 */
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

/** A command cannot do what its arguments or its environment say; nothing was changed. */
export class UsageError extends Error {
  override readonly name: string = 'UsageError';
}

const SQLSTATE = /^[0-9A-Z]{5}$/;

/** The SQLSTATE of a PostgreSQL error, or of the first of its causes that has one. */
export function sqlStateOf(error: unknown): string | undefined {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code } = cause as { code?: unknown };
    if (typeof code === 'string' && SQLSTATE.test(code)) return code;
  }
  return undefined;
}

/**
 * SQLSTATE classes and codes that blame the server, the connection or a concurrent transaction, not the
 * statement.
 */
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

/** True when PostgreSQL cannot be reached or does not serve, so that the same statement may succeed later. */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (error instanceof UnusableDatabase) return true; // an operator changed a role or a pooler while the service was running
  const state = sqlStateOf(error);
  if (state !== undefined) return DATABASE_UNAVAILABLE.some((pattern) => pattern.test(state));
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (CONNECTION_FAULTS.has(String((cause as { code?: unknown }).code))) return true;
    if (CONNECTION_MESSAGES.test(cause.message)) return true;
  }
  return false;
}

/**
 * The error as one with a code of the table; an unexpected error is `internal`, and the client learns no
 * details.
 */
export function toIngestError(error: unknown): IngestError {
  if (error instanceof IngestError) return error;
  if (isDatabaseUnavailable(error)) {
    return new IngestError('database_unavailable', 'The database cannot be reached; try again.', {
      cause: error,
    });
  }
  const { status } = error as { status?: unknown };
  // Express throws such errors for an address that cannot be decoded.
  if (typeof status === 'number' && status >= 400 && status < 500) {
    return new IngestError('invalid_request', `The request cannot be read: ${(error as Error).message}.`, {
      cause: error,
    });
  }
  return new IngestError(
    'internal',
    'The service failed with an unexpected error; its log has the details under this request_id.',
    {
      cause: error,
    },
  );
}

/**
 * An error and its causes in one line, for logs and for `load_attempt.error`. (23505, a key that occurs twice, has a
 * sentence of its own where it can occur.)
 */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (let cause: unknown = error; cause !== undefined && cause !== null; cause = (cause as Error).cause) {
    if (!(cause instanceof Error)) {
      parts.push(String(cause));
      break;
    }
    const { code, constraint, table } = cause as { code?: unknown; constraint?: unknown; table?: unknown };
    const message =
      typeof constraint === 'string' && code !== '23505'
        ? `the constraint "${constraint}" of the table "${table}" does not allow a row`
        : cause.message;
    parts.push(
      typeof code === 'string' && !(cause instanceof IngestError) ? `${message} (${code})` : message,
    );
  }
  return printableLines(parts.join(': '));
}
