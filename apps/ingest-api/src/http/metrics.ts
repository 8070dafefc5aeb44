import type { Database, LoadOutcome } from 'db-schema';
import { type RequestHandler, Router } from 'express';
import type { Kysely } from 'kysely';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { ERROR_CODES, RUN_STATE } from 'wire';
import { IngestError } from '../errors.ts';
import { type ServiceFigures, serviceFigures } from '../runs/status.ts';
import { principalOf, requireScope } from './auth.ts';
import type { DiskRoom, RoomCheck } from './quota.ts';
import { sharedAnswer } from './status.ts';

/** With the figures of Node itself: memory, CPU, event loop lag. */
export function createRegistry(): Registry {
  const registry = new Registry();
  // It wakes the process this often; a lag that matters is far longer.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 100 });
  return registry;
}

/** `GET /metrics` for Prometheus, which sends a token as any other client does. */
export function metricsRoutes(db: Kysely<Database>, room: RoomCheck, registry: Registry): Router {
  const setFigures = serviceMetrics(registry);
  const router = Router();
  const scrape = sharedAnswer(async () => {
    setFigures(await serviceFigures(db), await roomIfKnown(room));
    return registry.metrics();
  });
  router.get('/metrics', async (_req, res) => {
    requireScope(res, 'read');
    if (principalOf(res).models !== null) {
      throw new IngestError(
        'forbidden',
        'The metrics are about every model; use a token that covers every model.',
      );
    }
    const text = await scrape('');
    res.set('Cache-Control', 'no-store').type(registry.contentType).send(text);
  });
  return router;
}

/** A failing disk must not end the scrape whose other figures report it. */
async function roomIfKnown(room: RoomCheck): Promise<DiskRoom | undefined> {
  try {
    return await room.room();
  } catch (error) {
    if (error instanceof IngestError && error.code === 'storage_fault') return undefined;
    throw error;
  }
}

type Figure = readonly [
  name: string,
  help: string,
  value: (it: ServiceFigures, disk: DiskRoom | undefined) => number | null | undefined,
];

const GAUGES: readonly Figure[] = [
  ['ingest_queue_runs', 'Complete runs that wait for a loader.', (it) => it.queue.waiting],
  [
    'ingest_queue_oldest_age_seconds',
    'How long the oldest waiting run has waited.',
    (it) => it.queue.oldestWaitSeconds ?? 0,
  ],
  [
    'ingest_queue_retrying_runs',
    'Waiting runs that a loader has tried to load before.',
    (it) => it.queue.betweenTries,
  ],
  ['ingest_loads_running', 'Loads in progress.', (it) => it.queue.loading],
  ['ingest_loaders', 'Loaders that are connected to the database.', (it) => it.loaders],
  ['ingest_receiving_runs', 'Runs that wait for bytes of their files.', (it) => it.receiving.runs],
  ['ingest_receiving_files', 'Files of those runs that are not complete.', (it) => it.receiving.files],
  ['ingest_stalled_files', 'Those files that receive no bytes.', (it) => it.receiving.stalledFiles],
  [
    'ingest_receiving_missing_bytes',
    'Bytes of those files that have not arrived.',
    (it) => it.receiving.missingBytes,
  ],
  [
    'ingest_disk_free_bytes',
    'Free bytes on the disk with the uploads; NaN for a bucket, or while the disk cannot be read.',
    (_, disk) => disk?.freeBytes,
  ],
  [
    'ingest_disk_largest_upload_bytes',
    'The largest file that fits; NaN while the disk cannot be read.',
    (_, disk) => disk?.largestUploadBytes,
  ],
];

const COUNTERS: readonly Figure[] = [
  ['ingest_uploads_created_total', 'Uploads that were created.', (it) => it.uploads.created],
  ['ingest_uploads_finished_total', 'Uploads that have all their bytes.', (it) => it.uploads.finished],
  ['ingest_upload_bytes_total', 'Bytes that were received and synced to the disk.', (it) => it.uploads.bytes],
  ['ingest_loaded_rows_total', 'Rows of committed loads.', (it) => it.loaded.rows],
  ['ingest_loaded_bytes_total', 'Bytes of the files of committed loads.', (it) => it.loaded.bytes],
  ['ingest_rejected_lines_total', 'Rejected lines.', (it) => it.rejectedLines],
  ['ingest_denials_total', 'Denied requests in the audit log.', (it) => it.denials],
];

/** Each exists from 0 on: Prometheus sees no increase in a counter that begins with 1. */
const OUTCOMES: readonly LoadOutcome[] = ['published', 'superseded', 'held', 'failed', 'retry', 'lost'];

/** `loading` is not stored: `ingest_loads_running` counts those runs. */
const STATES = RUN_STATE.options.filter((state) => state !== 'loading');

/**
 * What a scrape reads from database and disk, so that it is true for all processes and across restarts.
 *
 * @returns a function that sets all of them.
 */
function serviceMetrics(registry: Registry): (figures: ServiceFigures, disk: DiskRoom | undefined) => void {
  const registers = [registry];
  const gauges = GAUGES.map(([name, help, value]) => ({
    gauge: new Gauge({ name, help, registers }),
    value,
  }));
  const counters = COUNTERS.map(([name, help, value]) => ({
    counter: new Counter({ name, help, registers }),
    value,
  }));
  const runs = new Gauge({
    name: 'ingest_runs',
    help: 'Runs by the stored state of their newest revision.',
    labelNames: ['state'],
    registers,
  });
  const published = new Gauge({
    name: 'ingest_last_published_timestamp_seconds',
    help: 'When a run of the model was last published.',
    labelNames: ['model'],
    registers,
  });
  const due = new Gauge({
    name: 'ingest_run_due_timestamp_seconds',
    help: 'When the next run of the model is overdue, if its contract has expectEvery; the 1,000 earliest.',
    labelNames: ['model'],
    registers,
  });
  const needy = new Gauge({
    name: 'ingest_model_runs',
    help: 'Failed and held runs of the 100 models with the newest ones; those of other models have the label _others.',
    labelNames: ['model', 'state'],
    registers,
  });
  const expiring = new Gauge({
    name: 'ingest_token_expiry_timestamp_seconds',
    help: 'When the last token of the name expires: those within 14 days before or after now, 100 names at most.',
    labelNames: ['token'],
    registers,
  });
  const loads = new Counter({
    name: 'ingest_loads_total',
    help: 'Load attempts that have ended, by outcome.',
    labelNames: ['outcome'],
    registers,
  });
  const loadSeconds = new Counter({
    name: 'ingest_load_seconds_total',
    help: 'Time of those attempts, by outcome.',
    labelNames: ['outcome'],
    registers,
  });
  const phaseSeconds = new Counter({
    name: 'ingest_load_phase_seconds_total',
    help: 'Time that complete loads spent in each phase.',
    labelNames: ['phase'],
    registers,
  });

  return (figures, disk) => {
    for (const { gauge, value } of gauges) gauge.set(value(figures, disk) ?? Number.NaN);
    for (const { counter, value } of counters) {
      counter.reset(); // its true value is in the database
      counter.inc(value(figures, disk) ?? 0);
    }
    runs.reset();
    for (const state of STATES) runs.set({ state }, 0);
    for (const [state, count] of Object.entries(figures.states)) runs.set({ state }, count);
    published.reset();
    for (const { model, at } of figures.published) published.set({ model }, at);
    due.reset();
    for (const { model, at } of figures.due) due.set({ model }, at);
    needy.reset();
    for (const { model, state, runs } of figures.needy) needy.set({ model, state }, runs);
    expiring.reset();
    for (const { token, at } of figures.expiring) expiring.set({ token }, at);
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
  };
}

/** From a probe to a chunk of 64 MiB over a slow network. */
const SECONDS = [0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300];

/** A client may send any word as its method. */
const KNOWN_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'DELETE']);

/**
 * Counts requests by route, never by address: a label with the run would be a new time series for each run.
 * What tusd calls `tusd_requests_total` and `tusd_errors_total` are the requests and problems of the route
 * /v1/uploads.
 */
export function requestMetrics(registry: Registry): RequestHandler {
  const requests = new Counter({
    name: 'ingest_http_requests_total',
    help: 'Requests that were answered, or cancelled by the client (status 499).',
    labelNames: ['method', 'route', 'status'],
    registers: [registry],
  });
  const problems = new Counter({
    name: 'ingest_http_problems_total',
    help: 'Requests that were answered with a problem, by its code.',
    labelNames: ['code'],
    registers: [registry],
  });
  for (const code of Object.keys(ERROR_CODES)) problems.inc({ code }, 0); // as for OUTCOMES
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
      // The length of an event stream is no measure of the service.
      if (route !== '/v1/events') seconds.observe({ method, route }, (performance.now() - startedMs) / 1000);
    });
    next();
  };
}
