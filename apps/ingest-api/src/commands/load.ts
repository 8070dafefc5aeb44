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

/** How often a loader that starts before its database looks for it. */
const OPEN_AGAIN_MS = 2_000;
/** Reports of loads are written at once; a server that takes longer hangs. */
const SIDE_SILENCE_MS = 60_000;

/** Runs a loader until `signal` is aborted. A load that is under way then is rolled back, and begun again by another. */
export async function load(config: LoadConfig, log: Logger, signal: AbortSignal): Promise<void> {
  const connection = {
    databaseUrl: config.databaseUrl,
    role: 'ingest_loader',
    applicationName: 'ingest-api load',
  } as const;
  await refuseUnusable(connection);
  const side = openDatabase({
    ...connection,
    applicationName: 'ingest-api load (side)',
    maxConnections: config.sideConnections,
    silenceTimeoutMs: SIDE_SILENCE_MS,
    onIdleError: (error) => log.warn({ err: describeError(error) }, 'an idle database connection was lost'),
  });
  try {
    while (!(await openWhenReachable(side.db, config.dataDir, log)) && !signal.aborted)
      await delay(OPEN_AGAIN_MS, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
  } catch (error) {
    await side.pool.end();
    throw error;
  }
  const worker = `${hostname()}:${process.pid}`;
  log.info({ worker, dataDir: config.dataDir }, 'loader started');
  const retention = runRetention({ connection, log, signal }, config.retentionIntervalMs);
  const context = {
    connection,
    side: side.db,
    sidePool: side.pool,
    dataDir: config.dataDir,
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
  await side.pool.end(); // not `db.destroy`, which ends nothing when Kysely itself was never asked
  log.info('loader stopped');
}
