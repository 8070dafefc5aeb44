import type { Database } from 'db-schema';
import express, { type Express } from 'express';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { describeError, IngestError } from '../errors.ts';
import type { GuardConfig } from '../guard-config.ts';
import type { RunLimits } from '../runs/contract.ts';
import type { LostBytes } from '../runs/lost-bytes.ts';
import { Principals } from '../runs/principals.ts';
import type { QueuedRevision } from '../runs/queue-complete-revisions.ts';
import { RunWatch } from '../runs/run-watch.ts';
import type { DurableStore } from '../store/durable-store.ts';
import type { UploadLocks } from '../store/upload-locks.ts';
import { auditDenials } from './audit-denials.ts';
import { authenticate } from './authenticate.ts';
import { keepConnection } from './connections.ts';
import { currentRoutes } from './current-routes.ts';
import { eventsRoutes } from './events-routes.ts';
import { requireGoodFraming } from './framing.ts';
import { requireKnownMethod } from './methods.ts';
import { createRegistry, metricsRoutes } from './metrics-routes.ts';
import { modelsRoutes } from './models-routes.ts';
import { openApiRoutes } from './openapi-routes.ts';
import { pageRoutes } from './page-routes.ts';
import { probes, type Readiness } from './probes.ts';
import { problemPages } from './problem-pages.ts';
import { problemHandler } from './problems.ts';
import { limitRefusals, limitRequests } from './rate-limit.ts';
import { rejectsRoutes } from './rejects-routes.ts';
import { requestLog } from './request-log.ts';
import { requestMetrics } from './request-metrics.ts';
import type { RoomCheck } from './room-check.ts';
import { runActionsRoutes } from './run-actions-routes.ts';
import { runsRoutes } from './runs-routes.ts';
import { securityHeaders } from './security-headers.ts';
import { sessionRoutes } from './session-routes.ts';
import { statusRoutes } from './status-routes.ts';
import { uploadQuota } from './upload-quota.ts';
import { tusVersionOnEveryAnswer, uploadRoutes } from './upload-routes.ts';

export interface AppOptions {
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
  onQueued(revisions: readonly QueuedRevision[]): void;
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
