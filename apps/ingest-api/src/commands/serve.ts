import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { type ConnectOptions, openDatabase, refuseUnusable } from 'db-schema';
import type { Logger } from 'pino';
import { ConfigError, type ServeConfig } from '../config.ts';
import { describeError } from '../errors.ts';
import { createApp } from '../http/app.ts';
import { createListener } from '../http/listener.ts';
import { Readiness } from '../http/probes.ts';
import { roomCheck } from '../http/quota.ts';
import { pruneHistory, removeFiles, removeOrphans } from '../runs/expiry.ts';
import { foldTally } from '../runs/status.ts';
import { openWhenReachable, renewStore } from '../runs/store-identity.ts';
import { removeEndedSessions } from '../runs/tokens.ts';
import { type MovedRevision, queueCompleteRevisions } from '../runs/transitions.ts';
import { type LostBytes, setBackAllShort, uploadRecords } from '../runs/uploads.ts';
import { UploadLocks } from '../store/claims.ts';
import { openStore } from '../store/open.ts';
import { DurableStore } from '../store/tus-store.ts';

const SWEEP_EVERY_MS = 60_000;
/** It lists the whole bucket. */
const REMOVE_ORPHANS_EVERY_MS = 60 * 60_000;
/** How often a service that cannot reach its database at the start tries again. */
const OPEN_AGAIN_MS = 2_000;
/** When the service stops, requests have this long to end by themselves. */
const GRACE_MS = 3_000;
/** When PostgreSQL does not answer for this long, the request gets 503 ... */
const DATABASE_SILENCE_MS = 20_000;
/** ... and so it does when a lock is held for this long. */
const DATABASE_LOCK_MS = 10_000;

/**
 * Runs the HTTP service until `signal` is aborted, then stops without losing an acknowledged byte.
 *
 * @param begun called before anything is written to database or store.
 */
export async function serve(
  config: ServeConfig,
  log: Logger,
  signal: AbortSignal,
  begun: () => void = () => {},
): Promise<void> {
  // The S3 client leaves 60 kB of garbage per object in V8's old generation, which would grow to 170 MB before it is collected.
  // This way it grows less, at about 7 % more of the service's processor time (e2e/many-uploads.test.ts prints the peaks).
  if (config.store.kind === 's3') setFlagsFromString('--optimize-for-size');
  const store = await openStore(config.store);
  const connection: ConnectOptions = {
    databaseUrl: config.databaseUrl,
    role: 'ingest_api',
    applicationName: 'ingest-api serve',
  };
  await refuseUnusable(connection);
  for (const warning of await store.prepare(config.expireUploadsMs + config.keepFilesMs)) log.warn(warning);
  const { db } = openDatabase({
    ...connection,
    lockTimeoutMs: DATABASE_LOCK_MS,
    maxConnections: config.databaseConnections,
    silenceTimeoutMs: DATABASE_SILENCE_MS,
    onIdleError: (error) => log.warn({ err: describeError(error) }, 'an idle database connection was lost'),
  });
  const locks = new UploadLocks({
    store,
    connection: { ...connection, applicationName: 'ingest-api serve (locks)' },
    records: uploadRecords(db),
    onSessionLost: (reason) => log.warn({ err: reason }, 'the locks of uploads were lost; their writes stop'),
  });
  const readiness = new Readiness({ ...connection, applicationName: 'ingest-api serve (readyz)' }, store);
  const onQueued = (revisions: readonly MovedRevision[]) => {
    for (const { model, run, revision } of revisions) log.info({ model, run, revision }, 'run queued');
  };
  const onLost = (lost: readonly LostBytes[]) => {
    for (const upload of lost)
      log.error(upload, 'the store lost bytes of an upload; the next push sends them again');
  };
  let isOpen = false;
  const app = createApp({
    db,
    store,
    maxUploadBytes: config.maxUploadBytes,
    expireUploadsMs: config.expireUploadsMs,
    tusStore: new DurableStore({ store, claimOf: (uploadId) => locks.claimOf(uploadId) }),
    locks,
    readiness,
    room: roomCheck({ db, store, maxUploadBytes: config.maxUploadBytes, minFreeBytes: config.minFreeBytes }),
    log,
    guard: config.guard,
    runLimits: config.runLimits,
    isStopping: () => signal.aborted,
    isOpen: () => isOpen,
    onQueued,
    onLost,
  });
  const server = createListener(app, config);

  begun();
  // Before it changes anything. While the database cannot be reached, the service answers 503 and tries
  // again.
  try {
    isOpen = await openWhenReachable(db, store, log);
  } catch (error) {
    await db.destroy();
    throw error;
  }
  try {
    server.listen(config.port, config.host);
    await once(server, 'listening');
  } catch (error) {
    await Promise.all([locks.close(), readiness.close(), db.destroy()]);
    throw listenFault(error, config);
  }
  const { port } = server.address() as AddressInfo;
  void readiness.check().catch(() => {}); // connects before the first probe; a probe gets the error
  log.info({ host: config.host, port, store: store.name }, 'listening');
  try {
    while (!isOpen && !signal.aborted) {
      await delay(OPEN_AGAIN_MS, undefined, { signal }).catch(() => {}); // it rejects when the signal is aborted
      isOpen = await openWhenReachable(db, store, log);
    }
  } catch (error) {
    server.close().closeAllConnections();
    await Promise.all([locks.close(), readiness.close(), db.destroy()]);
    throw error;
  }

  let hasCompared = false;
  let isSameStore = false;
  let orphansRemovedMs = Number.NEGATIVE_INFINITY;
  const renew = async () => {
    isSameStore = false;
    await renewStore(db, store);
    isSameStore = true;
  };
  /** Nothing is removed, or recorded as removed, while another store may be in the place of this one. */
  const compare = async () => {
    if (!isSameStore || hasCompared) return;
    onLost(await setBackAllShort(db, store));
    hasCompared = true;
  };
  const removeUnneeded = async () => {
    if (!isSameStore) return;
    const { expired, removedFiles, removedBytes } = await removeFiles(db, store, config);
    for (const { model, run, revision } of expired)
      log.info({ model, run, revision }, 'run cancelled: it received no bytes for too long');
    if (removedFiles > 0) log.info({ removedFiles, removedBytes }, 'removed files that no run needs');
  };
  const prune = async () => {
    if (config.keepHistoryMs === undefined) return;
    const pruned = await pruneHistory(db, config.keepHistoryMs);
    if (Object.values(pruned).some((rows) => rows > 0))
      log.info(pruned, 'deleted history that is older than INGEST_KEEP_HISTORY');
  };
  const removeUnnamed = async () => {
    if (!isSameStore || performance.now() - orphansRemovedMs < REMOVE_ORPHANS_EVERY_MS) return;
    orphansRemovedMs = performance.now();
    const removedOrphans = await removeOrphans(db, store);
    if (removedOrphans > 0) log.info({ removedOrphans }, 'removed objects that no upload names');
  };
  const steps: Readonly<Record<string, () => Promise<void>>> = {
    'renew the marker of the store': renew,
    'compare uploads with the store': compare,
    // Also those whose finish hook did not run.
    'queue complete runs': async () => onQueued(await queueCompleteRevisions(db, 'all')),
    'remove ended sessions': () => removeEndedSessions(db),
    'fold the tally': () => foldTally(db),
    'delete old history': prune,
    'remove files that no run needs': removeUnneeded,
    'remove objects that no upload names': removeUnnamed,
  };
  /** One after the other, and the next sweep after the end of this one: a removal may take longer than a minute. */
  const sweep = async () => {
    for (const [step, work] of Object.entries(steps)) {
      if (signal.aborted) return;
      try {
        await work();
      } catch (error) {
        if (!signal.aborted)
          log.warn(
            { step, err: describeError(error) },
            'a step of the sweep failed; it runs again in a minute',
          );
      }
    }
  };
  // Not awaited when the service stops: what it does in the store at that time may take long, and can be repeated.
  void (async () => {
    while (!signal.aborted) {
      await sweep();
      await delay(SWEEP_EVERY_MS, undefined, { signal }).catch(() => {}); // it rejects when the signal is aborted
    }
  })();

  if (!signal.aborted) await once(signal, 'abort');
  log.info('stopping');
  const closed = once(server, 'close');
  server.close();
  const cut = setTimeout(() => server.closeAllConnections(), GRACE_MS);
  await closed;
  clearTimeout(cut);
  await locks.close(); // syncs and records what interrupted PATCH requests have sent
  await readiness.close();
  await db.destroy();
  log.info('stopped');
}

/** Why the address of the service cannot be used, and what to do. */
function listenFault(error: unknown, { host, port }: ServeConfig): unknown {
  const { code } = error as { code?: unknown };
  const advice: Readonly<Record<string, string>> = {
    EADDRINUSE: `Another program uses port ${port} of ${host}. Stop it (ss -ltnp shows it), or set INGEST_PORT to a free port.`,
    EACCES: `This user may not listen on port ${port} of ${host}. Set INGEST_PORT to 1024 or more, or allow it (CAP_NET_BIND_SERVICE).`,
    EADDRNOTAVAIL: `${host} is not an address of this machine. Set INGEST_HOST to one of its addresses, or to 0.0.0.0 for all.`,
    ENOTFOUND: `${host} is not the name of an address. Set INGEST_HOST to an address of this machine, or to 0.0.0.0 for all.`,
  };
  const found = advice[String(code)];
  return found === undefined ? error : new ConfigError(found);
}
