/**
 * Every error code of the system, once: the status and title that the service answers, the page that explains
 * the error (`/problems/{code}`), and what a client does about it. The OpenAPI document and the metrics are
 * made from these tables.
 */

/**
 * What went wrong, in the words that decide what the caller does next. The exit codes are those of
 * sysexits(3) where one fits, so that a scheduler can tell "run it again" (75) from "a person must act" (65).
 */
export type FaultKind = 'bug' | 'usage' | 'data' | 'source' | 'try_again' | 'not_allowed';

/** 0: success. 130 and 143: ended by SIGINT or SIGTERM. The others are those of `EXIT_CODE_OF`. */
export type ExitCode = 0 | 1 | 2 | 65 | 66 | 75 | 77 | 130 | 143;

export const EXIT_CODE_OF: Readonly<Record<FaultKind, ExitCode>> = {
  bug: 1,
  usage: 2,
  data: 65,
  source: 66,
  try_again: 75,
  not_allowed: 77,
};

/**
 * What a client does about an error: it tries again, declares the run again, or ends with the exit code of a
 * fault.
 */
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
  /** The header `Retry-After`, unless the error itself has another time. */
  readonly retryAfterSeconds?: number;
}

/** The service refuses a request. The answer is a problem document (RFC 9457). */
export const ERROR_CODES = {
  invalid_request: {
    status: 400,
    client: 'usage',
    title: 'The request is not valid',
    happened: 'The address, a header or the body breaks a rule of this request.',
    toDo: [
      'Read `detail`: it names the field or header that is wrong, and the rule.',
      'Compare the request with `/openapi.json`.',
    ],
  },
  unauthenticated: {
    status: 401,
    client: 'not_allowed',
    title: 'A valid token is needed',
    happened:
      'The request has no token, or a token that is unknown, expired or revoked (perhaps while the request was sending). On the status page: the session has ended.',
    toDo: [
      'Send `Authorization: Bearer TOKEN`. The uploader reads the token from `UPLOADER_TOKEN` or `UPLOADER_TOKEN_FILE`.',
      'Ask the operators for a new token; they create one with `ingest-api token create NAME`.',
      'On the status page: sign in again.',
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
      'This model, run, revision or upload does not exist. A token gets the same status and code for a model that it does not cover.',
    toDo: [
      'Check the spelling of model and run; encode the run key as one path segment (`/` is `%2F`).',
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
      'Check the base address: `UPLOADER_URL` has no `/v1`, and has the path prefix of a proxy if there is one.',
    ],
  },
  method_not_allowed: {
    status: 405,
    client: 'usage',
    title: 'This address does not support the method',
    happened: 'The address exists, but not with this method.',
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
      'A held run breaks a gate: it is published only with `force`.',
      'If `detail` says that a loader works on the run: wait until the load has ended.',
    ],
  },
  offset_conflict: {
    status: 409,
    client: 'retry',
    title: "The offset is not the upload's offset",
    happened:
      'The PATCH begins at another offset than the upload has. The offset can be lower than one that was acknowledged before: after the store has lost bytes, the upload continues from what the store holds.',
    toDo: ['Ask for the offset with HEAD and continue there. tus clients do so by themselves.'],
  },
  upload_gone: {
    status: 410,
    client: 'declare_again',
    title: 'The upload takes no more bytes; declare the run again',
    happened:
      'No run waits for this upload: the run was cancelled, a newer revision replaced it, or it received no bytes for too long; or the store lost the bytes and no run needs them.',
    toDo: ['Run the same `uploader push` again, or declare the run again.'],
  },
  precondition_failed: {
    status: 412,
    client: 'usage',
    title: 'A required header is missing or does not match',
    happened:
      'The header `Tus-Resumable` is missing or names another version; or another publication has replaced the one that `If-Match` names.',
    toDo: [
      'After an `If-Match`: read the model again, check what readers see now, and decide again.',
      'For uploads: send `Tus-Resumable: 1.0.0`.',
    ],
  },
  too_large: {
    status: 413,
    client: 'usage',
    title: 'Larger than the limit',
    happened:
      'A file, a run or a request body is larger than its limit, or the request has more bytes than the upload declared.',
    toDo: [
      'A file: split it, or ask the operators to raise `INGEST_MAX_UPLOAD_BYTES`.',
      'A run: send less, or ask the operators to raise the limit: `ingest-api model set MODEL --max-bytes N --max-rows N`.',
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
      'Send the bytes of an upload with the `Content-Encoding` zstd or gzip, or without; any other body without. `Accept-Encoding` of the answer says which are supported.',
      'A `.gz` or `.zst` file is sent as it is: what its name says is not a `Content-Encoding`.',
    ],
  },
  expectation_failed: {
    status: 417,
    client: 'usage',
    title: 'The header Expect asks for something unsupported',
    happened: 'The header `Expect` has another value than `100-continue`.',
    toDo: ['Send no `Expect`, or `Expect: 100-continue`.'],
  },
  rate_limited: {
    status: 429,
    client: 'retry',
    title: 'Too many requests',
    happened:
      'This token sent more requests or sign-ins in a minute than the limit, has 10 event streams open, has too many requests that are not answered yet, or uses too much memory with requests that are not answered yet; or this address sent too many requests without a valid token.',
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
      'Another request is writing this upload; or this request may not write it any more, because another request took it over, the store lost its bytes, or the service lost its database connection.',
    toDo: [
      'Wait as long as `Retry-After` says, then ask for the offset with HEAD and continue there. The uploader does so by itself. A stalled writer is replaced.',
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
    title: 'Internal error of the service',
    happened: 'The service failed with an unexpected error. What it acknowledged before is safe.',
    toDo: [
      'Try again. If it continues, search the log of the service for the `request_id`: the log has the whole error.',
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
    happened:
      'PostgreSQL cannot be reached, does not accept the statement now (it starts, stops, is read-only or full), or a lock was held for too long. Nothing that was acknowledged is lost.',
    toDo: [
      'Wait; the uploader tries again by itself, and loads start again when the database is back.',
      'Operators: check PostgreSQL, `/readyz`, and the log for the cause.',
    ],
  },
  storage_fault: {
    status: 503,
    client: 'retry',
    retryAfterSeconds: 10,
    title: 'The store of the uploads does not work',
    happened:
      'The disk did not read, write or sync, or the bucket refused a request or did not answer; or the folder or bucket is missing, another store or an older copy. Of an upload, only the bytes up to its offset are safe.',
    toDo: [
      'Try again; the uploader does so by itself.',
      'Operators: for a folder (`INGEST_STORE`), check the kernel log for errors of the disk, and that the volume is mounted; for a bucket, check its server, its policy and the credentials.',
    ],
  },
  shutting_down: {
    status: 503,
    client: 'retry',
    retryAfterSeconds: 5,
    title: 'The service is stopping',
    happened: 'The service is stopping, or restarting.',
    toDo: ['Try again in a few seconds; the uploader does so by itself.'],
  },
  quota_exceeded: {
    status: 507,
    client: 'retry',
    title: 'The quota of the token is used up',
    happened:
      'With this request, the token would have too many unfinished uploads, too many bytes, or too many files or changed contracts of the last 24 hours. The bytes of a file count until the service removes it, also after its run is loaded or withdrawn; its declaration counts for 24 hours, whatever becomes of the run.',
    toDo: [
      'Wait until uploads are finished and files are removed, or withdraw runs that nobody needs.',
      'If it says that too much was declared or changed within 24 hours, look for a job that does so again and again.',
      'Operators: raise `INGEST_MAX_OPEN_UPLOADS`, `INGEST_MAX_TOKEN_BYTES` or `INGEST_MAX_DAILY_FILES`, or lower `INGEST_KEEP_FILES_HOURS`.',
    ],
  },
  insufficient_storage: {
    status: 507,
    client: 'retry',
    retryAfterSeconds: 60,
    title: 'The store has no room for this',
    happened:
      'The store has no room for the bytes of this request, on top of what other runs have declared and of what is kept free.',
    toDo: [
      'Run the same command again later: files are removed after their runs are loaded.',
      'Operators: `disk` in `/v1/status` shows the bytes that are free, promised and kept free (`INGEST_MIN_FREE_BYTES`). Withdraw runs that nobody will finish, or enlarge the disk.',
    ],
  },
} as const satisfies Record<string, HttpErrorEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** The run is `failed`, and this is `error.code`. Readers still see the run that was published before. */
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
      'At least one `pk` occurs more than once in the run, in one file or in several. `GET …/rejects` names up to 1,000 keys, and up to 20 places of each.',
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
    happened: 'A compressed file expands to more than 200 times its size plus 64 MiB.',
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
      'PostgreSQL refused a row in two consecutive attempts, with the same error (SQLSTATE class 22, 23 or 54): somebody added a constraint, or the service has a bug.',
    toDo: ['Tell the operators of the service. When the cause is fixed: `uploader retry MODEL RUN`.'],
  },
  no_rows: {
    client: 'data',
    title: 'The run has no rows',
    happened: 'The files contain no row.',
    toDo: ['Push again when there is data.'],
  },
  content_mismatch: {
    client: 'retry',
    title: 'What arrived is not what was declared',
    happened:
      'The size, sha256 or line count of files differs from the manifest, or a file was removed. `detail` names the first ten files and the number of the others.',
    toDo: ['Push again: the uploader hashes these files again and sends them again, and no others.'],
  },
} as const satisfies Record<string, ErrorEntry>;

export type RunErrorCode = keyof typeof RUN_ERROR_CODES;

/** Whether the same request may succeed later. */
export function isRetryable(code: ErrorCode): boolean {
  const { client } = ERROR_CODES[code];
  return client === 'retry' || client === 'declare_again';
}
