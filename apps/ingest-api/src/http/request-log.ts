import { randomUUID } from 'node:crypto';
import type { Request, RequestHandler } from 'express';
import type { Logger } from 'pino';

const REQUEST_ID = /^[A-Za-z0-9._-]{1,100}$/;

/** Gives each request its id (the caller's, if it is sane), sends it back, and writes one line when it is over. */
export function requestLog(log: Logger): RequestHandler {
  return (req, res, next) => {
    const given = req.get('x-request-id');
    res.locals.requestId = given !== undefined && REQUEST_ID.test(given) ? given : randomUUID();
    res.setHeader('X-Request-Id', res.locals.requestId);
    const startedMs = performance.now();
    res.once('close', () => {
      log.info(
        {
          requestId: res.locals.requestId,
          method: req.method,
          path: req.originalUrl.split('?')[0],
          status: res.writableFinished ? res.statusCode : 499, // nginx's number for a client that hung up
          durationMs: Math.round(performance.now() - startedMs),
          ...subjectOf(req),
          token: res.locals.principal?.name,
          problem: res.locals.problem,
        },
        'request',
      );
    });
    next();
  };
}

const MODEL_AND_RUN = /^\/v1\/models\/([^/?]+)(?:\/runs\/([^/?]+))?/;
const UPLOAD = /^\/v1\/uploads\/([0-9a-f]{32})/;

/** What the request was about, to find every line of one run or upload; from the address, also of what was refused. */
function subjectOf({ originalUrl }: Request): { model?: string; run?: string; upload?: string } {
  const [, model, run] = MODEL_AND_RUN.exec(originalUrl) ?? [];
  const [, upload] = UPLOAD.exec(originalUrl) ?? [];
  return {
    ...(model === undefined ? {} : { model }),
    ...(run === undefined ? {} : { run: readable(run) }),
    ...(upload === undefined ? {} : { upload }),
  };
}

function readable(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}
