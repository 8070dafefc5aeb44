import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { type Database, openDatabase, refuseUnusable } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { Logger } from 'pino';
import { ConfigError, type LoadConfig } from '../config.ts';
import { describeError, sqlStateOf } from '../errors.ts';
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
 *
 * @param begun called before anything is written to database or store.
 */
export async function load(
  config: LoadConfig,
  log: Logger,
  signal: AbortSignal,
  begun: () => void = () => {},
): Promise<void> {
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
  begun();
  try {
    while (!(await openWhenReachable(side.db, store, log)) && !signal.aborted)
      await delay(OPEN_AGAIN_MS, undefined, { signal }).catch(() => {}); // it rejects when the signal is aborted
    if (!signal.aborted) await refuseWorkMem(side.db, config.maintenanceWorkMem);
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

const INVALID_PARAMETER_VALUE = '22023';

/** @throws a ConfigError when PostgreSQL refuses the value, so that it does not fail each load. */
async function refuseWorkMem(db: Kysely<Database>, value: string): Promise<void> {
  try {
    await sql`SELECT set_config('maintenance_work_mem', ${value}, true)`.execute(db);
  } catch (error) {
    if (sqlStateOf(error) !== INVALID_PARAMETER_VALUE) return; // the database went away, and may be back soon
    throw new ConfigError(`INGEST_MAINTENANCE_WORK_MEM: ${(error as Error).message}.`);
  }
}
