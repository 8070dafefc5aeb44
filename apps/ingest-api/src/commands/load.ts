import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { openDatabase, refuseUnusable } from 'db-schema';
import type { Logger } from 'pino';
import type { LoadConfig } from '../config.ts';
import { describeError } from '../errors.ts';
import { runLoader } from '../load/loader.ts';
import { runRetention } from '../load/retention.ts';
import { endFrozenLoads } from '../load/watchdog.ts';
import { openWhenReachable } from '../runs/store-identity.ts';
import { openStore } from '../store/open.ts';

/** How often a loader that cannot reach its database at the start tries again. */
const OPEN_AGAIN_MS = 2_000;
/** Reports of loads are short statements; a server that does not answer them for this long hangs. */
const SIDE_SILENCE_MS = 60_000;

/**
 * Runs a loader until `signal` is aborted. A load in progress is then rolled back, and another loader starts
 * it again.
 */
export async function load(config: LoadConfig, log: Logger, signal: AbortSignal): Promise<void> {
  const connection = {
    databaseUrl: config.databaseUrl,
    role: 'ingest_loader',
    applicationName: 'ingest-api load',
  } as const;
  await refuseUnusable(connection);
  const store = await openStore(config.store);
  for (const warning of await store.prepare()) log.warn(warning);
  const side = openDatabase({
    ...connection,
    applicationName: 'ingest-api load (side)',
    maxConnections: config.sideConnections,
    silenceTimeoutMs: SIDE_SILENCE_MS,
    onIdleError: (error) => log.warn({ err: describeError(error) }, 'an idle database connection was lost'),
  });
  try {
    while (!(await openWhenReachable(side.db, store, log)) && !signal.aborted)
      await delay(OPEN_AGAIN_MS, undefined, { signal }).catch(() => {}); // it rejects when the signal is aborted
  } catch (error) {
    await side.pool.end();
    throw error;
  }
  const worker = `${hostname()}:${process.pid}`;
  log.info({ worker, store: store.name }, 'loader started');
  const waitMs = config.retentionWaitMs;
  const retention = runRetention({ connection, log, signal, waitMs }, config.retentionIntervalMs);
  const context = {
    connection,
    side: side.db,
    sidePool: side.pool,
    store,
    worker,
    maintenanceWorkMem: config.maintenanceWorkMem,
    stallTimeoutMs: config.stallTimeoutMs,
    runLimits: config.runLimits,
    log,
    signal,
  };
  const frozenLoads = endFrozenLoads(context, config.pollIntervalMs);
  await runLoader(context, config.pollIntervalMs);
  await Promise.all([retention, frozenLoads]);
  await side.pool.end(); // not `db.destroy`, which ends nothing before Kysely has run a query
  log.info('loader stopped');
}
