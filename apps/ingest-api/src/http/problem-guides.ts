import type { ErrorCode } from '../errors.ts';

export interface ProblemGuide {
  /** What happened, for somebody who has never seen this service. */
  readonly happened: string;
  /** What to do now, in the order in which it is worth trying. */
  readonly toDo: readonly string[];
}

/** One page a problem: served at /problems/{code}, and written to docs/problems/ by `write-problem-docs.ts`. */
export const PROBLEM_GUIDES: Readonly<Record<ErrorCode, ProblemGuide>> = {
  invalid_request: {
    happened:
      'Something in the address, a header or the body is not what this request takes. Nothing was changed.',
    toDo: [
      'Read `detail`: it names every field that is wrong, and the rule.',
      'Compare with the request in `/openapi.json`.',
    ],
  },
  unauthenticated: {
    happened:
      'The request brought no token, or one that is unknown, has expired or was revoked, also while it was sending; or a session of the status page that has ended.',
    toDo: [
      'Send `Authorization: Bearer TOKEN`. The uploader takes it from `UPLOADER_TOKEN` or `UPLOADER_TOKEN_FILE`.',
      'Ask the operators for a new one: `ingest-api token create NAME`. On the status page: sign in again.',
    ],
  },
  forbidden: {
    happened:
      'The token is valid, but lacks the scope that `detail` names; or it would end a run of another token; or a change was signed in by cookie and did not come from the status page.',
    toDo: [
      'Use a token with that scope: `push` to send runs, `read` to look, `operate` to retry, withdraw and publish.',
      'A program sends its token in the header, not in a cookie.',
    ],
  },
  not_found: {
    happened:
      'There is no such run or upload. A model that the token does not cover is answered the same way.',
    toDo: [
      'Look at the spelling of model and run; a run key is percent-encoded in an address.',
      'For an upload: declare the run again, or run the same `uploader push` again.',
      'Ask the operators whether the token covers the model.',
    ],
  },
  unknown_address: {
    happened: 'The service has nothing at this path, whatever the token.',
    toDo: [
      'Check the base address: in the uploader UPLOADER_URL, without `/v1` and with the prefix that a proxy in front of the service wants.',
    ],
  },
  method_not_allowed: {
    happened: 'The address is right, the method is not.',
    toDo: ['Use one of the methods in the header `Allow`.'],
  },
  request_timeout: {
    happened: 'The headers or the body of the request did not arrive in time.',
    toDo: ['Send the request again; look at the network, and at proxies on the way, if it happens again.'],
  },
  conflict: {
    happened: 'What was asked for does not fit the state that the run, model or upload is in.',
    toDo: [
      'Look at the run: `mayDo` lists what its state allows.',
      'A held run is published only with `force`, as a gate is broken.',
    ],
  },
  offset_conflict: {
    happened:
      "The PATCH begins at another offset than the upload's. It may be lower than what the service had acknowledged: when its disk has lost bytes, the upload goes back to what is there.",
    toDo: ['Ask for the offset by HEAD, and continue from there. tus clients do it by themselves.'],
  },
  upload_gone: {
    happened:
      'The upload was removed: its run was cancelled, nothing came for it for too long, or its bytes are lost and no run waits for them.',
    toDo: ['Declare the run again, or run the same `uploader push` again: it gets a new upload.'],
  },
  precondition_failed: {
    happened:
      'A header that must be there is missing, as `Tus-Resumable`; or `If-Match` names a state that has changed since.',
    toDo: [
      'After an `If-Match`: read the model again, see what readers see now, and decide anew.',
      'For uploads: send `Tus-Resumable: 1.0.0`.',
    ],
  },
  too_large: {
    happened: 'A file, a body or a chunk has more bytes than are taken, or more than were declared.',
    toDo: [
      'Split the file; or ask the operators to raise `INGEST_MAX_UPLOAD_BYTES`.',
      'More than was declared: the file grew while it was sent. Push it when it is finished.',
    ],
  },
  unsupported_media_type: {
    happened: 'The body has a content type, or a content coding, that is not taken here.',
    toDo: [
      'Send `application/offset+octet-stream` with a PATCH, `application/json` with a manifest.',
      'Send the body as it is, without `Content-Encoding`, or with one of those that the header `Accept-Encoding` of the answer names.',
    ],
  },
  expectation_failed: {
    happened: 'The header `Expect` asks for something that this server does not do.',
    toDo: ['Send no `Expect`, or `Expect: 100-continue`.'],
  },
  rate_limited: {
    happened:
      'This token sent more requests in a minute than the service takes, has ten streams of events open, or holds as much memory with requests that are not answered yet as one token may; or this address sent too many requests without a valid token.',
    toDo: [
      'Wait as long as `Retry-After` says; the uploader does it by itself.',
      'If it goes on: give each job a token of its own, or ask the operators to raise the limit.',
    ],
  },
  upload_locked: {
    happened:
      'Another request is writing this very upload, and is alive; or this one has lost the upload, before it brought a byte or because its service was silent for too long.',
    toDo: [
      'Wait as long as `Retry-After` says; the uploader does it by itself. A writer that has stalled is replaced.',
      'If it stays: two jobs push the same run. End one of them.',
    ],
  },
  headers_too_large: {
    happened: 'The request line and the headers have more than 16 KiB together.',
    toDo: ['Send fewer or shorter headers; look for cookies that a browser has collected for this host.'],
  },
  internal: {
    happened: 'The service met a fault of its own. What was acknowledged before is safe.',
    toDo: [
      'Try again. If it stays, look for `request_id` in the log of the service: the whole fault stands there.',
    ],
  },
  not_implemented: {
    happened: 'The request uses a method, or a transfer coding, that this server does not know.',
    toDo: [
      'Use one of the methods in `/openapi.json`.',
      'Send the body with `Content-Length`, or with `Transfer-Encoding: chunked` and no other coding.',
    ],
  },
  overloaded: {
    happened: 'Requests that are not answered yet hold all the memory that the service has for them.',
    toDo: [
      'Wait for as long as `Retry-After` says; the uploader does it by itself.',
      'Operators: look in the log for large manifests that several jobs declare at the same time.',
    ],
  },
  database_unavailable: {
    happened: 'PostgreSQL cannot be reached, or is not serving. Nothing that was acknowledged is lost.',
    toDo: [
      'Wait; the uploader tries again by itself, and loads begin anew when the database is back.',
      'Operators: look at PostgreSQL, at `/readyz`, and at the log for the cause.',
    ],
  },
  storage_fault: {
    happened:
      'The disk did not take or sync the bytes, or the folder with the uploads is not there. Nothing was acknowledged; the upload is where it was synced last.',
    toDo: [
      'Try again; the uploader does it by itself.',
      'Operators: look at the kernel log for errors of the disk below `INGEST_DATA_DIR`, before it gets worse.',
    ],
  },
  shutting_down: {
    happened: 'The service is being stopped or restarted.',
    toDo: ['Try again in a few seconds; the uploader does it by itself.'],
  },
  quota_exceeded: {
    happened: 'The token has more unfinished uploads on their way than it may.',
    toDo: [
      'Wait until some are finished, or withdraw runs that are not needed any more.',
      'Operators: raise the quota if the job really needs more at once.',
    ],
  },
  insufficient_storage: {
    happened: 'The disk has no room for what was declared, on top of what is promised to others already.',
    toDo: [
      'Run the same command again later: uploads are removed once their runs are published.',
      'Operators: `disk` in `/v1/status` says what is free, promised and kept. Withdraw runs that nobody will finish, or enlarge the disk.',
    ],
  },
};
