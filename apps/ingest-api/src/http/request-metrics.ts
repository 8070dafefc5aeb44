import type { RequestHandler } from 'express';
import { Counter, Histogram, type Registry } from 'prom-client';
import { ERROR_CODES } from '../errors.ts';

/** From a probe to a chunk of 64 MiB over a slow line. */
const SECONDS = [0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300];

/**
 * Counts requests by route, never by address: a label a run would be a time series a run. What tusd calls
 * `tusd_requests_total` and `tusd_errors_total` are the requests and problems of the route /v1/uploads.
 */
export function requestMetrics(registry: Registry): RequestHandler {
  const requests = new Counter({
    name: 'ingest_http_requests_total',
    help: 'Requests that were answered, or given up by the client (status 499).',
    labelNames: ['method', 'route', 'status'],
    registers: [registry],
  });
  const problems = new Counter({
    name: 'ingest_http_problems_total',
    help: 'Requests that were answered with a problem, by its code.',
    labelNames: ['code'],
    registers: [registry],
  });
  // From 0 on: Prometheus sees no increase in a counter that begins with 1.
  for (const code of Object.keys(ERROR_CODES)) problems.inc({ code }, 0);
  const seconds = new Histogram({
    name: 'ingest_http_request_seconds',
    help: 'From the first header to the last byte of the answer.',
    labelNames: ['method', 'route'],
    buckets: SECONDS,
    registers: [registry],
  });
  return (req, res, next) => {
    const startedMs = performance.now();
    res.once('close', () => {
      const route = typeof req.route?.path === 'string' ? req.route.path : 'none';
      const method = KNOWN_METHODS.has(req.method) ? req.method : 'other';
      requests.inc({ method, route, status: res.writableFinished ? res.statusCode : 499 });
      if (res.locals.problem !== undefined) problems.inc({ code: res.locals.problem });
      // How long a reader listens to events says nothing of the service.
      if (route !== '/v1/events') seconds.observe({ method, route }, (performance.now() - startedMs) / 1000);
    });
    next();
  };
}

/** A client may send any word as its method. */
const KNOWN_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'DELETE']);
