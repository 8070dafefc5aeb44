import { randomUUID } from 'node:crypto';
import type { Database } from 'db-schema';
import express, { type Express, type Request, type RequestHandler, Router } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { GuardConfig } from '../config.ts';
import { describeError, IngestError } from '../errors.ts';
import type { RunLimits } from '../runs/models.ts';
import { Principals } from '../runs/tokens.ts';
import type { MovedRevision } from '../runs/transitions.ts';
import type { LostBytes } from '../runs/uploads.ts';
import { RunWatch } from '../runs/watch.ts';
import type { UploadLocks } from '../store/claims.ts';
import type { Store } from '../store/store.ts';
import type { DurableStore } from '../store/tus-store.ts';
import { auditDenials, authenticate, sessionRoutes } from './auth.ts';
import { eventRoutes } from './events.ts';
import { limitRefusals, limitRequests, limitUnderWay } from './limits.ts';
import { keepConnection } from './listener.ts';
import { createRegistry, metricsRoutes, requestMetrics } from './metrics.ts';
import { modelRoutes } from './models.ts';
import { openApiRoutes } from './openapi.ts';
import { OPERATIONS } from './operations.ts';
import { PAGE_ADDRESSES, pageRoutes } from './page.ts';
import { probes, type Readiness } from './probes.ts';
import { problemHandler, problemPages } from './problems.ts';
import { type RoomCheck, tokenQuota } from './quota.ts';
import { runRoutes } from './runs.ts';
import { statusRoutes } from './status.ts';
import { tusVersionOnEveryAnswer, uploadRoutes } from './uploads.ts';

interface AppOptions {
  readonly db: Kysely<Database>;
  readonly store: Store;
  readonly maxUploadBytes: number;
  readonly expireUploadsMs: number;
  readonly tusStore: DurableStore;
  readonly locks: UploadLocks;
  readonly readiness: Pick<Readiness, 'check'>;
  readonly room: RoomCheck;
  readonly log: Logger;
  readonly guard: GuardConfig;
  readonly runLimits: RunLimits;
  isStopping(): boolean;
  /** False until the service has reached the database and found the folder to be its store. */
  isOpen(): boolean;
  onQueued(revisions: readonly MovedRevision[]): void;
  onLost(lost: readonly LostBytes[]): void;
}

/**
 * Probes, the files of the status page, the sign-in and the problem pages are public; everything else needs a
 * token.
 */
export function createApp(options: AppOptions): Express {
  const { db, log, guard } = options;
  const watch = new RunWatch({
    db,
    isStopping: options.isStopping,
    onFault: (error) =>
      log.warn(
        { err: describeError(error) },
        'the changes of runs could not be read; the service tries again',
      ),
  }).start();
  const quota = tokenQuota(guard);
  const principals = new Principals(db);
  const refuse = limitRefusals(guard.failedLoginsPerMinute);
  const registry = createRegistry();
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');
  app.set('trust proxy', [...guard.trustedProxies]);
  app.use(requestLog(log));
  app.use(requestMetrics(registry));
  app.use(auditDenials(db, log));
  app.use(securityHeaders);
  app.use(framedHeads);
  app.use(tusVersionOnEveryAnswer);
  app.use(requireGoodFraming);
  app.use(requireKnownMethod());
  app.use(probes(options));
  app.use((_req, _res, next) => {
    if (options.isStopping())
      throw new IngestError('shutting_down', 'The service is stopping; try again in a moment.');
    if (!options.isOpen())
      throw new IngestError(
        'database_unavailable',
        'The service has not reached its database and its store since it started; try again.',
      );
    next();
  });
  app.use(pageRoutes());
  app.use(problemPages());
  app.use(sessionRoutes(principals, refuse));
  app.use(authenticate(principals, refuse));
  app.use((req, _res, next) => {
    keepConnection(req);
    next();
  });
  app.use(limitRequests(guard.ratePerMinute));
  app.use(limitUnderWay(guard.maxConnections));
  app.use(statusRoutes(db, options.room));
  app.use(metricsRoutes(db, options.room, registry));
  app.use(openApiRoutes());
  app.use(eventRoutes({ watch, principals }));
  app.use(modelRoutes(db, quota));
  app.use(runRoutes({ ...options, watch, quota }));
  app.use(uploadRoutes({ ...options, quota, principals }));
  app.use((req) => {
    throw new IngestError(
      'unknown_address',
      `The service has nothing at ${req.path}; /openapi.json lists its addresses.`,
    );
  });
  app.use(problemHandler(log));
  return app;
}

/**
 * For every answer: browsers may not run it, frame it, guess another type, or store it. The routes of the
 * status page set a policy of their own. When this service itself speaks TLS, browsers use only HTTPS with
 * this host for a year (RFC 6797; behind a proxy, the proxy decides).
 */
const securityHeaders: RequestHandler = (req, res, next) => {
  res.set({
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
  });
  if ('encrypted' in req.socket) res.set('Strict-Transport-Security', 'max-age=31536000');
  next();
};

/**
 * An answer to HEAD says, as the GET would, where its body ends. Without that, Node's own client closes the connection: each
 * file of a tus client then took a second one.
 */
const framedHeads: RequestHandler = (req, res, next) => {
  if (req.method === 'HEAD' && req.httpVersion === '1.1') {
    const { writeHead } = res;
    res.writeHead = (status: number, ...rest: never[]) => {
      const mayHaveBody = status !== 204 && status !== 304;
      if (mayHaveBody && !res.hasHeader('Content-Length')) res.setHeader('Transfer-Encoding', 'chunked');
      return writeHead.call(res, status, ...rest);
    };
  }
  next();
};

/**
 * Rules of RFC 9112 and RFC 9110 that come before everything else in a request, and that Node does not check.
 */
const requireGoodFraming: RequestHandler = (req, res, next) => {
  const hosts = req.rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host');
  // RFC 9112 §3.2. Node uses the first one; a proxy that uses the last one has checked another request than
  // the one we see.
  if (hosts.length > 1 || (hosts.length === 0 && req.httpVersion === '1.1')) {
    res.set('Connection', 'close');
    throw new IngestError('invalid_request', `The request has ${hosts.length} Host headers; send one.`);
  }
  const coding = req.headers['transfer-encoding'];
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') {
    res.set('Connection', 'close'); // only the coding could tell where the body ends
    throw new IngestError(
      'not_implemented',
      `The Transfer-Encoding ${JSON.stringify(coding.slice(0, 80))} is not supported; send "chunked", or a Content-Length.`,
    );
  }
  const { expect } = req.headers;
  if (expect !== undefined && req.httpVersion === '1.1') {
    // After an answer without a 100, a client may or may not send the body, and we cannot tell it from the
    // next request.
    res.set('Connection', 'close');
    if (expect.toLowerCase() !== '100-continue')
      throw new IngestError(
        'expectation_failed',
        'The header Expect has a value that is not supported; send "100-continue" or no Expect.',
      );
  }
  next();
};

/**
 * Answers 405 with the methods of the address, before the token is checked. They come from the table of the
 * OpenAPI document, which a test compares with the routes.
 */
function requireKnownMethod(): Router {
  const methods = new Map<string, Set<string>>();
  const known = [...OPERATIONS, ...PAGE_ADDRESSES.map((path) => ({ method: 'get', path }))];
  for (const { method, path } of known) {
    const ofPath = methods.get(path) ?? new Set();
    ofPath.add(method.toUpperCase());
    if (method === 'get') ofPath.add('HEAD'); // as Express answers it
    methods.set(path, ofPath);
  }
  const router = Router();
  for (const [path, ofPath] of methods) router.all(path, oneOf(ofPath));
  return router;
}

function oneOf(methods: ReadonlySet<string>): RequestHandler {
  const allowed = [...methods].sort().join(', ');
  return (req, res, next) => {
    if (methods.has(req.method)) return next();
    res.set('Allow', allowed);
    throw new IngestError(
      'method_not_allowed',
      `This address does not support ${req.method}; use one of ${allowed}.`,
    );
  };
}

const REQUEST_ID = /^[A-Za-z0-9._-]{1,100}$/;

/**
 * Gives each request an id (the caller's own, if it is valid), answers it in `X-Request-Id`, and logs one
 * line at the end.
 */
function requestLog(log: Logger): RequestHandler {
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
          status: res.writableFinished ? res.statusCode : 499, // the status of nginx for a client that hung up
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

/**
 * The model, run or upload in the address, also of a refused request: it finds every log line of one of them.
 */
function subjectOf({ originalUrl }: Request): { model?: string; run?: string; upload?: string } {
  const [, model, run] = MODEL_AND_RUN.exec(originalUrl) ?? [];
  const [, upload] = UPLOAD.exec(originalUrl) ?? [];
  return {
    ...(model === undefined ? {} : { model }),
    ...(run === undefined ? {} : { run: decoded(run) }),
    ...(upload === undefined ? {} : { upload }),
  };
}

function decoded(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}
