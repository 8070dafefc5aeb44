/**
 * Every error code of the system, once: the answer of the service, the page that explains it, and what a client does.
 * The service serves a page for each at `/problems/{code}`; the OpenAPI document, the uploader and the docs use this table.
 */
import type { FaultKind } from './exit-codes.ts';

/** What a client does about an error: it tries again, declares the run again, or ends with the exit code of a fault. */
export type ClientAction = 'retry' | 'declare_again' | FaultKind;

interface ErrorEntry {
  readonly title: string;
  readonly client: ClientAction;
  /** What happened, for somebody who has never seen this service. `code` is Markdown. */
  readonly happened: string;
  /** What to do, in the order in which it is worth trying. */
  readonly toDo: readonly string[];
}

interface HttpErrorEntry extends ErrorEntry {
  readonly status: number;
  /** Sent as `Retry-After` unless the error says another time. */
  readonly retryAfterSeconds?: number;
}

/** The service refuses a request. The answer is a problem document (RFC 9457). */
export const ERROR_CODES = {
  invalid_request: {
    status: 400,
    client: 'usage',
    title: 'The request is not valid',
    happened: 'The address, a header or the body breaks a rule of this request. Nothing was changed.',
    toDo: [
      'Read `detail`: it names each field that is wrong, and the rule.',
      'Compare the request with `/openapi.json`.',
    ],
  },
  unauthenticated: {
    status: 401,
    client: 'not_allowed',
    title: 'A valid token is needed',
    happened:
      'The request has no token, or a token that is unknown, expired or revoked (perhaps while the request was sending); or the session of the status page has ended.',
    toDo: [
      'Send `Authorization: Bearer TOKEN`. The uploader reads the token from `UPLOADER_TOKEN` or `UPLOADER_TOKEN_FILE`.',
      'Ask the operators for a new token: `ingest-api token create NAME`. On the status page: sign in again.',
    ],
  },
  forbidden: {
    status: 403,
    client: 'not_allowed',
    title: 'The token does not allow this',
    happened:
      'The token is valid, but lacks the scope that `detail` names; or the run belongs to another token; or a change was sent with a cookie from outside the status page.',
    toDo: [
      'Use a token with that scope: `push` sends runs, `read` reads, `operate` retries, withdraws and publishes.',
      'A program sends its token in the header, not in a cookie.',
    ],
  },
  not_found: {
    status: 404,
    client: 'not_allowed',
    title: 'Not found, or not visible to this token',
    happened:
      'This run or upload does not exist. A model that the token does not cover gets the same answer.',
    toDo: [
      'Check the spelling of model and run; a run key is percent-encoded in an address.',
      'For an upload: run the same `uploader push` again, or declare the run again.',
      'Ask the operators whether the token covers the model.',
    ],
  },
  unknown_address: {
    status: 404,
    client: 'usage',
    title: 'The service has nothing at this address',
    happened: 'The service has no such path, whatever the token.',
    toDo: [
      'Check the base address: the uploader takes `UPLOADER_URL` without `/v1`, and with the path prefix of a proxy if there is one.',
    ],
  },
  method_not_allowed: {
    status: 405,
    client: 'usage',
    title: 'This address does not support the method',
    happened: 'The address is right, the method is not.',
    toDo: ['Use one of the methods in the header `Allow`.'],
  },
  request_timeout: {
    status: 408,
    client: 'retry',
    title: 'The request did not arrive in time',
    happened: 'The headers or the body of the request did not arrive in time.',
    toDo: ['Send the request again. If it happens again, check the network and the proxies on the path.'],
  },
  conflict: {
    status: 409,
    client: 'data',
    title: 'The state does not allow this',
    happened: 'The state of the run, model or upload does not allow the request.',
    toDo: [
      'Read the run: `mayDo` lists what its state allows.',
      'A held run breaks a gate; it is published only with `force`.',
    ],
  },
  offset_conflict: {
    status: 409,
    client: 'retry',
    title: "The offset is not the upload's offset",
    happened:
      'The PATCH begins at another offset than the upload has. The offset can be lower than one that was acknowledged before: after the disk has lost bytes, the upload continues from what the disk holds.',
    toDo: ['Ask for the offset with HEAD and continue there. tus clients do so by themselves.'],
  },
  upload_gone: {
    status: 410,
    client: 'declare_again',
    title: 'The upload was removed; declare the run again',
    happened:
      'The upload was removed: its run was cancelled, it received no bytes for too long, or its bytes were lost and no run needs them.',
    toDo: ['Run the same `uploader push` again, or declare the run again: it gets a new upload.'],
  },
  precondition_failed: {
    status: 412,
    client: 'usage',
    title: 'A required header is missing or does not match',
    happened:
      'A required header such as `Tus-Resumable` is missing; or `If-Match` names a state that has changed since.',
    toDo: [
      'After an `If-Match`: read the model again, check what readers see now, and decide again.',
      'For uploads: send `Tus-Resumable: 1.0.0`.',
    ],
  },
  too_large: {
    status: 413,
    client: 'usage',
    title: 'Larger than the limit',
    happened: 'A file, a body or a chunk has more bytes than the limit, or more than were declared.',
    toDo: [
      'Split the file, or ask the operators to raise `INGEST_MAX_UPLOAD_BYTES`.',
      'More bytes than declared: the file grew while it was sent. Push it when it is finished.',
    ],
  },
  unsupported_media_type: {
    status: 415,
    client: 'bug',
    title: 'The content type or coding is not supported',
    happened: 'The content type or the content coding of the body is not supported here.',
    toDo: [
      'Send `application/offset+octet-stream` with a PATCH, `application/json` with a manifest.',
      'Send the body without `Content-Encoding`, or with one that the header `Accept-Encoding` of the answer names.',
    ],
  },
  expectation_failed: {
    status: 417,
    client: 'usage',
    title: 'The header Expect asks for something unsupported',
    happened: 'The header `Expect` asks for something that this server does not support.',
    toDo: ['Send no `Expect`, or `Expect: 100-continue`.'],
  },
  rate_limited: {
    status: 429,
    client: 'retry',
    title: 'Too many requests',
    happened:
      'This token sent more requests per minute than the limit, has 10 event streams open, or has too much memory in use by requests that are not answered yet; or this address sent too many requests without a valid token.',
    toDo: [
      'Wait as long as `Retry-After` says; the uploader does so by itself.',
      'If it continues: give each job a token of its own, or ask the operators to raise the limit.',
    ],
  },
  upload_locked: {
    status: 423,
    client: 'retry',
    retryAfterSeconds: 2,
    title: 'Another request is writing this upload',
    happened:
      'Another request is writing this upload; or this request lost the upload to another one, before it sent a byte or because its service did not respond for too long.',
    toDo: [
      'Wait as long as `Retry-After` says; the uploader does so by itself. A writer that has stalled is replaced.',
      'If it continues: two jobs push the same run. Stop one of them.',
    ],
  },
  headers_too_large: {
    status: 431,
    client: 'usage',
    title: 'The headers are too large',
    happened: 'The request line and the headers have more than 16 KiB together.',
    toDo: ['Send fewer or shorter headers; check which cookies the browser keeps for this host.'],
  },
  internal: {
    status: 500,
    client: 'retry',
    title: 'A fault of the service',
    happened: 'The service met a fault of its own. What it acknowledged before is safe.',
    toDo: [
      'Try again. If it continues, search the log of the service for the `request_id`: the log has the whole fault.',
    ],
  },
  not_implemented: {
    status: 501,
    client: 'bug',
    title: 'The server does not support this',
    happened: 'The server does not know the method or the transfer coding of the request.',
    toDo: [
      'Use one of the methods in `/openapi.json`.',
      'Send the body with `Content-Length`, or with `Transfer-Encoding: chunked` and no other coding.',
    ],
  },
  overloaded: {
    status: 503,
    client: 'retry',
    title: 'The service is busy',
    happened: 'Requests that are not answered yet use all the memory that the service has for them.',
    toDo: [
      'Wait as long as `Retry-After` says; the uploader does so by itself.',
      'Operators: search the log for large manifests that several jobs declare at the same time.',
    ],
  },
  database_unavailable: {
    status: 503,
    client: 'retry',
    retryAfterSeconds: 5,
    title: 'The database cannot be reached',
    happened: 'PostgreSQL cannot be reached, or does not serve. Nothing that was acknowledged is lost.',
    toDo: [
      'Wait; the uploader tries again by itself, and loads start again when the database is back.',
      'Operators: check PostgreSQL, `/readyz`, and the log for the cause.',
    ],
  },
  storage_fault: {
    status: 503,
    client: 'retry',
    retryAfterSeconds: 10,
    title: 'The disk did not store the bytes',
    happened:
      'The disk did not write or sync the bytes, or the folder with the uploads is missing. Nothing was acknowledged; the upload is at the offset that was synced last.',
    toDo: [
      'Try again; the uploader does so by itself.',
      'Operators: check the kernel log for errors of the disk below `INGEST_DATA_DIR`, and that the volume is mounted.',
    ],
  },
  shutting_down: {
    status: 503,
    client: 'retry',
    retryAfterSeconds: 5,
    title: 'The service is stopping',
    happened: 'The service is being stopped or restarted.',
    toDo: ['Try again in a few seconds; the uploader does so by itself.'],
  },
  quota_exceeded: {
    status: 507,
    client: 'retry',
    title: 'The token has too many unfinished uploads',
    happened: 'The unfinished uploads of this token are more, or larger, than its quota.',
    toDo: [
      'Wait until some are finished, or withdraw runs that are not needed any more.',
      'Operators: raise `INGEST_MAX_OPEN_UPLOADS` or `INGEST_MAX_TOKEN_BYTES` if the job needs more at once.',
    ],
  },
  insufficient_storage: {
    status: 507,
    client: 'retry',
    retryAfterSeconds: 60,
    title: 'The disk has no room for this',
    happened: 'The disk has no room for the declared bytes, on top of what other runs have declared.',
    toDo: [
      'Run the same command again later: files are removed after their runs are loaded.',
      'Operators: `disk` in `/v1/status` says what is free, promised and kept free. Withdraw runs that nobody will finish, or enlarge the disk.',
    ],
  },
} as const satisfies Record<string, HttpErrorEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** The data of a run is at fault: the run is `failed`, and this is `error.code`. Readers still see the run published before. */
export const RUN_ERROR_CODES = {
  bad_lines: {
    client: 'data',
    title: 'Lines cannot be loaded',
    happened:
      'More lines are bad than the contract of the model allows (none by default). `file`, `line` and `byte_offset` of the error are those of the first.',
    toDo: [
      'Fix the lines and push again. `GET …/rejects` lists up to 1,000 of them, with code, place and excerpt.',
      'If some bad lines are acceptable: `ingest-api model set MODEL --max-rejected-lines N`.',
    ],
  },
  duplicate_keys: {
    client: 'data',
    title: 'A pk occurs more than once',
    happened:
      'At least one `pk` occurs more than once in the run, in one file or in several. `GET …/rejects` names up to 1,000 keys and the places of each.',
    toDo: ['Fix the output of the classifier so that each `pk` occurs once, and push again.'],
  },
  corrupt_compression: {
    client: 'data',
    title: 'A compressed file cannot be read',
    happened:
      'A `.gz` or `.zst` file is empty or cut off, has another format than its name says, or has other bytes after its end.',
    toDo: ['Write the file again and push again.'],
  },
  expansion_too_large: {
    client: 'data',
    title: 'A compressed file expands too much',
    happened: 'A compressed file expands to more than 200 times its size and more than 64 MiB.',
    toDo: ['If the data is right, push it uncompressed.'],
  },
  too_large: {
    client: 'data',
    title: 'The run is larger than the limit',
    happened:
      "The lines of the run have more bytes or rows than the contract of the model, or the service's default, allows.",
    toDo: [
      'Send less, or ask the operators to raise the limit: `ingest-api model set MODEL --max-bytes N --max-rows N`.',
    ],
  },
  refused_by_database: {
    client: 'data',
    title: 'PostgreSQL refuses a row',
    happened:
      'PostgreSQL refused a row in two attempts in a row (SQLSTATE class 22, 23 or 54): somebody added a constraint, or the service has a fault.',
    toDo: ['Tell the operators of the service; when the cause is fixed: `uploader retry MODEL RUN`.'],
  },
  no_rows: {
    client: 'data',
    title: 'The run has no rows',
    happened: 'The files contain no row at all.',
    toDo: ['Push again when there is data.'],
  },
  content_mismatch: {
    client: 'retry',
    title: 'What arrived is not what was declared',
    happened:
      'The size, sha256 or line count of files differs from the manifest. `detail` names the first ten files and the number of the others.',
    toDo: ['Push again: the uploader hashes these files again and sends them again, and nothing else.'],
  },
} as const satisfies Record<string, ErrorEntry>;

export type RunErrorCode = keyof typeof RUN_ERROR_CODES;

/** Whether the same request may succeed later. */
export function isRetryable(code: ErrorCode): boolean {
  const { client } = ERROR_CODES[code];
  return client === 'retry' || client === 'declare_again';
}
