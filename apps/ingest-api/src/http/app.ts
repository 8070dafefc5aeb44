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
import type { DurableStore } from '../store/tus-store.ts';
import { auditDenials, authenticate } from './auth.ts';
import { eventsRoutes } from './events.ts';
import { limitRefusals, limitRequests } from './limits.ts';
import { keepConnection } from './listener.ts';
import { createRegistry, metricsRoutes, requestMetrics } from './metrics.ts';
import { currentRoutes, modelsRoutes } from './models.ts';
import { openApiRoutes } from './openapi.ts';
import { OPERATIONS } from './operations.ts';
import { PAGE_ADDRESSES, pageRoutes } from './page.ts';
import { probes, type Readiness } from './probes.ts';
import { problemHandler, problemPages } from './problems.ts';
import { type RoomCheck, uploadQuota } from './room.ts';
import { rejectsRoutes, runActionsRoutes, runsRoutes } from './runs.ts';
import { sessionRoutes } from './session.ts';
import { statusRoutes } from './status.ts';
import { tusVersionOnEveryAnswer, uploadRoutes } from './uploads.ts';

interface AppOptions {
  readonly db: Kysely<Database>;
  readonly dataDir: string;
  readonly maxUploadBytes: number;
  readonly expireUploadsMs: number;
  readonly store: DurableStore;
  readonly locks: UploadLocks;
  readonly readiness: Pick<Readiness, 'check'>;
  readonly room: RoomCheck;
  readonly log: Logger;
  readonly guard: GuardConfig;
  readonly runLimits: RunLimits;
  isStopping(): boolean;
  /** False until the database was reached, and the folder found to be its store. */
  isOpen(): boolean;
  onQueued(revisions: readonly MovedRevision[]): void;
  onLost(lost: readonly LostBytes[]): void;
}

/** Probes and the status page's files are open; everything else needs a token. */
export function createApp(options: AppOptions): Express {
  const { db, log, guard } = options;
  const watch = new RunWatch({
    db,
    isStopping: options.isStopping,
    onFault: (error) => log.warn({ err: describeError(error) }, 'the runs could not be looked at'),
  }).start();
  const quota = uploadQuota(guard);
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
        'The database has not been reached since the start; try again.',
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
  app.use(statusRoutes({ ...options, watch }));
  app.use(metricsRoutes({ ...options, registry }));
  app.use(openApiRoutes());
  app.use(eventsRoutes({ watch, principals }));
  app.use(runsRoutes({ ...options, watch, quota }));
  app.use(modelsRoutes(options));
  app.use(currentRoutes(options));
  app.use(rejectsRoutes(options));
  app.use(runActionsRoutes(options));
  app.use(uploadRoutes({ ...options, quota, principals }));
  app.use((req) => {
    throw new IngestError('unknown_address', `There is nothing at ${req.method} ${req.path}.`);
  });
  app.use(problemHandler(log));
  return app;
}

/**
 * For every answer: nothing of it may run, be framed, be guessed to be another type, or be kept. The status
 * page's routes set a policy of their own. Where this service itself speaks TLS, browsers ask for nothing else of this
 * host for a year (RFC 6797; behind a proxy that is the proxy's to say).
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

/** What RFC 9112 and RFC 9110 ask of a message before anything else of it is looked at, and Node leaves to us. */
const requireGoodFraming: RequestHandler = (req, res, next) => {
  const hosts = req.rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host');
  // RFC 9112 §3.2. Node takes the first and is silent; a proxy that takes the last would have let in another request
  // than the one we see.
  if (hosts.length > 1 || (hosts.length === 0 && req.httpVersion === '1.1')) {
    res.set('Connection', 'close');
    throw new IngestError('invalid_request', `The request has ${hosts.length} headers Host; send one.`);
  }
  const coding = req.headers['transfer-encoding'];
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') {
    res.set('Connection', 'close'); // where its body ends, only its coding says
    throw new IngestError(
      'not_implemented',
      `The Transfer-Encoding ${JSON.stringify(coding.slice(0, 80))} is not known here; send "chunked", or a Content-Length.`,
    );
  }
  const { expect } = req.headers;
  if (expect !== undefined && req.httpVersion === '1.1') {
    // Whoever is answered without a 100 may or may not send the body: the next request could not be told from it.
    res.set('Connection', 'close');
    if (expect.toLowerCase() !== '100-continue')
      throw new IngestError('expectation_failed', 'The only Expect that is met here is "100-continue".');
  }
  next();
};

/**
 * 405, with the methods that the address has, before anything else of a request is looked at. They come from the table
 * of the OpenAPI document, which a test holds against the routes.
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
    throw new IngestError('method_not_allowed', `${req.method} is not allowed here; use one of ${allowed}.`);
  };
}

const REQUEST_ID = /^[A-Za-z0-9._-]{1,100}$/;

/** Gives each request its id (the caller's, if it is sane), sends it back, and writes one line when it is over. */
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
