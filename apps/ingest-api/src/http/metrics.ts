import type { Database, LoadOutcome } from 'db-schema';
import { type RequestHandler, Router } from 'express';
import type { Kysely } from 'kysely';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { ERROR_CODES, RUN_STATE } from 'wire';
import { IngestError } from '../errors.ts';
import { type ServiceFigures, serviceFigures } from '../runs/status.ts';
import { sharedAnswer } from './answers.ts';
import { principalOf, requireScope } from './auth.ts';
import type { DiskRoom, RoomCheck } from './room.ts';

/** With Node's own figures: memory, CPU, event loop lag. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

interface MetricsRoutesOptions {
  readonly db: Kysely<Database>;
  readonly room: RoomCheck;
  readonly registry: Registry;
}

/** `/metrics` for Prometheus, which sends a token as any other client does. */
export function metricsRoutes({ db, room, registry }: MetricsRoutesOptions): Router {
  const metrics = serviceMetrics(registry);
  const router = Router();
  const scrape = sharedAnswer(async () => {
    metrics.set(await serviceFigures(db), await room.room());
    return registry.metrics();
  });
  router.get('/metrics', async (_req, res) => {
    requireScope(res, 'read');
    if (principalOf(res).models !== null) {
      throw new IngestError(
        'forbidden',
        'Metrics tell of every model; they need a token that is not bound to some of them.',
      );
    }
    const text = await scrape('');
    res.set('Cache-Control', 'no-store').type(registry.contentType).send(text);
  });
  return router;
}

/** Each is there from 0 on: Prometheus sees no increase in a counter that begins with 1. */
const OUTCOMES: readonly LoadOutcome[] = ['published', 'superseded', 'held', 'failed', 'retry', 'lost'];

/** `loading` is told by ingest_loads_running: it is not stored. */
const STATES = RUN_STATE.options.filter((state) => state !== 'loading');

/** What a scrape reads from database and disk, so that it is true for all processes and across restarts. */
interface ServiceMetrics {
  set(figures: ServiceFigures, room: DiskRoom): void;
}

function serviceMetrics(registry: Registry): ServiceMetrics {
  const registers = [registry];
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });
  const counter = (name: string, help: string) => new Counter({ name, help, registers });

  const queueRuns = gauge('ingest_queue_runs', 'Runs with all their files that wait for a loader.');
  const queueAge = gauge('ingest_queue_oldest_age_seconds', 'How long the oldest waiting run has waited.');
  const betweenTries = gauge('ingest_queue_retrying_runs', 'Waiting runs of which a load broke off before.');
  const loadsRunning = gauge('ingest_loads_running', 'Loads that are going on.');
  const loaders = gauge('ingest_loaders', 'Loaders that are connected to the database.');
  const receivingRuns = gauge('ingest_receiving_runs', 'Runs that wait for bytes of their files.');
  const receivingFiles = gauge('ingest_receiving_files', 'Files of those runs that are not complete.');
  const stalledFiles = gauge('ingest_stalled_files', 'Of those, files that have stopped moving.');
  const missingBytes = gauge('ingest_receiving_missing_bytes', 'Bytes that are still to come.');
  const freeBytes = gauge('ingest_disk_free_bytes', 'Free on the disk of uploads.');
  const largestUpload = gauge(
    'ingest_disk_largest_upload_bytes',
    'The largest file there would be room for.',
  );
  const runs = new Gauge({
    name: 'ingest_runs',
    help: 'Runs by the stored state of their newest revision.',
    labelNames: ['state'],
    registers,
  });
  const published = new Gauge({
    name: 'ingest_last_published_timestamp_seconds',
    help: 'When a run of the model was last shown to readers.',
    labelNames: ['model'],
    registers,
  });
  const uploadsCreated = counter('ingest_uploads_created_total', 'Uploads that were made.');
  const uploadsFinished = counter('ingest_uploads_finished_total', 'Uploads that have all their bytes.');
  const uploadBytes = counter(
    'ingest_upload_bytes_total',
    'Bytes that were received and synced to the disk.',
  );
  const loads = new Counter({
    name: 'ingest_loads_total',
    help: 'Tries to load a run that have ended, by their outcome.',
    labelNames: ['outcome'],
    registers,
  });
  const loadSeconds = new Counter({
    name: 'ingest_load_seconds_total',
    help: 'Time that those tries took, by their outcome.',
    labelNames: ['outcome'],
    registers,
  });
  const phaseSeconds = new Counter({
    name: 'ingest_load_phase_seconds_total',
    help: 'Time that loads which ended in order spent in each phase.',
    labelNames: ['phase'],
    registers,
  });
  const loadedRows = counter('ingest_loaded_rows_total', 'Rows of loads that committed.');
  const loadedBytes = counter('ingest_loaded_bytes_total', 'Bytes of files of loads that committed.');
  const rejectedLines = counter('ingest_rejected_lines_total', 'Lines that were refused.');
  const denials = counter(
    'ingest_denials_total',
    'Requests that were not allowed, as the audit log has them.',
  );

  return {
    set(figures, room) {
      queueRuns.set(figures.queue.waiting);
      queueAge.set(figures.queue.oldestWaitSeconds ?? 0);
      betweenTries.set(figures.queue.betweenTries);
      loadsRunning.set(figures.queue.loading);
      loaders.set(figures.loaders);
      receivingRuns.set(figures.receiving.runs);
      receivingFiles.set(figures.receiving.files);
      stalledFiles.set(figures.receiving.stalledFiles);
      missingBytes.set(figures.receiving.missingBytes);
      freeBytes.set(room.freeBytes);
      largestUpload.set(room.largestUploadBytes);
      runs.reset();
      for (const state of STATES) runs.set({ state }, 0);
      for (const [state, count] of Object.entries(figures.states)) runs.set({ state }, count);
      published.reset();
      for (const { model, at } of figures.published) published.set({ model }, at);
      loads.reset();
      loadSeconds.reset();
      for (const outcome of OUTCOMES) {
        loads.inc({ outcome }, 0);
        loadSeconds.inc({ outcome }, 0);
      }
      for (const { outcome, count, seconds } of figures.loads) {
        loads.inc({ outcome }, count);
        loadSeconds.inc({ outcome }, seconds);
      }
      phaseSeconds.reset();
      for (const { phase, seconds } of figures.phases) phaseSeconds.inc({ phase }, seconds);
      setTo(uploadsCreated, figures.uploads.created);
      setTo(uploadsFinished, figures.uploads.finished);
      setTo(uploadBytes, figures.uploads.bytes);
      setTo(loadedRows, figures.loaded.rows);
      setTo(loadedBytes, figures.loaded.bytes);
      setTo(rejectedLines, figures.rejectedLines);
      setTo(denials, figures.denials);
    },
  };
}

/** A counter whose truth is in the database is written anew at each scrape. */
function setTo(counter: Counter, value: number): void {
  counter.reset();
  counter.inc(value);
}

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
