import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import { type ErrorRequestHandler, type Request, type Response, Router } from 'express';
import type { Logger } from 'pino';
import { ERROR_CODES, isRetryable, type Problem, printable, RUN_ERROR_CODES } from 'wire';
import { describeError, IngestError, toIngestError } from '../errors.ts';

/** The last handler: Express passes every thrown error and rejected promise here. */
export function problemHandler(log: Logger): ErrorRequestHandler {
  return (error, _req, res, next) => {
    const known = toIngestError(error);
    if (ERROR_CODES[known.code].status >= 500) {
      log.error(
        { requestId: res.locals.requestId, err: describeError(error), stack: (error as Error).stack },
        known.message,
      );
    }
    if (res.headersSent) next(error);
    else sendProblem(res, known);
  };
}

function sendProblem(res: Response, error: IngestError): void {
  const problem = toProblem(error, res.locals.requestId);
  const entry = ERROR_CODES[error.code];
  const retryAfter =
    error.retryAfterSeconds ?? ('retryAfterSeconds' in entry ? entry.retryAfterSeconds : undefined);
  if (retryAfter !== undefined) res.setHeader('Retry-After', String(retryAfter));
  if (problem.status === 401) res.setHeader('WWW-Authenticate', 'Bearer');
  res.locals.problem = problem.code;
  readOn(res.req);
  res.status(problem.status).type('application/problem+json').send(JSON.stringify(problem));
}

/** RFC 9457 problem details. */
function toProblem(error: IngestError, requestId: string): Problem {
  const { status, title } = ERROR_CODES[error.code];
  return {
    // Relative to the request (RFC 9457 §3.1.1): this service has the page.
    type: `/problems/${error.code}`,
    title,
    status,
    detail: printable(error.message),
    code: error.code,
    retryable: isRetryable(error.code),
    request_id: requestId,
  };
}

/**
 * A client may continue to send for this long after its request was refused; then its connection is closed.
 */
const READ_ON_MS = 5_000;

/**
 * Reads the rest of a refused body: if we closed the connection at once, TCP would reset it, and the client
 * might never read the answer. (RFC 9112 §9.6: first close only our side.)
 */
function readOn(req: Request): void {
  const { socket } = req;
  if (req.complete || req.destroyed) return;
  const timer = setTimeout(() => socket.destroy(), READ_ON_MS);
  timer.unref();
  let isToClose = false;
  // Node calls this after the last answer of a connection.
  socket.destroySoon = () => {
    isToClose = true;
    socket.end();
  };
  req.once('end', () => {
    clearTimeout(timer);
    Reflect.deleteProperty(socket, 'destroySoon');
    if (isToClose) socket.destroySoon();
  });
  req.once('close', () => clearTimeout(timer)).resume();
}

/** The whole answer as text, for a socket whose bytes are not a request. */
export function rawProblem(error: IngestError, headers: Readonly<Record<string, string>> = {}): string {
  const problem = toProblem(error, randomUUID());
  const body = JSON.stringify(problem);
  const fields = {
    'Content-Type': 'application/problem+json; charset=utf-8',
    'Content-Length': String(Buffer.byteLength(body)),
    'X-Request-Id': problem.request_id,
    'Cache-Control': 'no-store',
    Date: new Date().toUTCString(),
    Connection: 'close',
    ...headers,
  };
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\n${lines.join('')}\r\n${body}`;
}

/** Every code that has a page: the codes of problem documents, and those of failed runs. */
export const PROBLEM_CODES: readonly string[] = [
  ...new Set([...Object.keys(ERROR_CODES), ...Object.keys(RUN_ERROR_CODES)]),
];

/** `/problems`, and `/problems/{code}`, the `type` of a problem. Public: the pages contain no data. */
export function problemPages(): Router {
  const router = Router();
  router.get('/problems', (_req, res) => {
    const entries = PROBLEM_CODES.map(
      (code) => `<li><a href="/problems/${code}"><code>${code}</code></a></li>`,
    );
    sendPage(res, 'Errors', `<h1>Errors</h1>\n      <ul>${entries.join('')}</ul>`);
  });
  router.get('/problems/:code', (req, res) => {
    const { code } = req.params;
    if (!PROBLEM_CODES.includes(code)) {
      throw new IngestError('unknown_address', `No error has the code "${code}"; /problems lists all codes.`);
    }
    sendPage(res, code, sectionsOf(code).join('\n      '));
  });
  return router;
}

/** A code can be the problem of a request, the reason why a run failed, or both. */
function sectionsOf(code: string): readonly string[] {
  const sections: string[] = [];
  if (isCodeOf(ERROR_CODES, code)) {
    const again = isRetryable(code) ? 'the same request may succeed later' : 'the same request fails again';
    sections.push(section(code, ERROR_CODES[code], `HTTP ${ERROR_CODES[code].status} · ${again}`));
  }
  if (isCodeOf(RUN_ERROR_CODES, code)) {
    sections.push(
      section(
        code,
        RUN_ERROR_CODES[code],
        'the run failed; readers still see the run that was published before',
      ),
    );
  }
  return sections;
}

function isCodeOf<Table extends object>(table: Table, code: string): code is keyof Table & string {
  return Object.hasOwn(table, code);
}

function section(
  code: string,
  { title, happened, toDo }: { title: string; happened: string; toDo: readonly string[] },
  meaning: string,
): string {
  return `<h1>${title}</h1>
      <p class="hint"><code>${code}</code> · ${meaning}</p>
      <h2>What happened</h2>
      <p>${withCode(happened)}</p>
      <h2>What to do</h2>
      <ul>${toDo.map((step) => `<li>${withCode(step)}</li>`).join('')}</ul>`;
}

/** The only markup in the guides is `code`. */
function withCode(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replace(/`([^`]+)`/g, '<code>$1</code>');
}

function sendPage(res: Response, title: string, content: string): void {
  res
    .set('Content-Security-Policy', "default-src 'none'; style-src 'self'; img-src 'self'")
    .set('Cache-Control', 'public, max-age=3600')
    .type('text/html')
    .send(`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>${title} · score-ingest</title>
    <link rel="icon" href="/page/icon.svg" />
    <link rel="stylesheet" href="/page/style.css" />
  </head>
  <body>
    <main>
      <p class="crumbs"><a href="/">score-ingest</a> · <a href="/problems">Errors</a></p>
      ${content}
    </main>
  </body>
</html>
`);
}
