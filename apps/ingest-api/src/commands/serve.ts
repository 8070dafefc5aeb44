import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, openDatabase, refuseUnusable } from 'db-schema';
import type { Logger } from 'pino';
import type { ServeConfig } from '../config.ts';
import { describeError } from '../errors.ts';
import { createApp } from '../http/app.ts';
import { createListener } from '../http/listener.ts';
import { Readiness } from '../http/probes.ts';
import { roomCheck } from '../http/room.ts';
import { removeFiles } from '../runs/expiry.ts';
import { openWhenReachable, renewStore } from '../runs/store-identity.ts';
import { removeEndedSessions } from '../runs/tokens.ts';
import { type MovedRevision, queueCompleteRevisions } from '../runs/transitions.ts';
import { type LostBytes, setBackAllShort, uploadRecords } from '../runs/uploads.ts';
import { UploadLocks } from '../store/claims.ts';
import { prepareDataDir } from '../store/folder.ts';
import { DurableStore } from '../store/tus-store.ts';

const SWEEP_EVERY_MS = 60_000;
/** How often a service that starts before its database looks for it. */
const OPEN_AGAIN_MS = 2_000;
/** Requests under way get so long to end by themselves when the service stops. */
const GRACE_MS = 3_000;
/** A request is told 503 when PostgreSQL says nothing for so long. */
const DATABASE_SILENCE_MS = 20_000;
/** … and when a row stays locked for this long. */
const DATABASE_LOCK_MS = 10_000;

/** Runs the HTTP service until `signal` is aborted, then stops without losing an acknowledged byte. */
export async function serve(config: ServeConfig, log: Logger, signal: AbortSignal): Promise<void> {
  const connection: ConnectOptions = {
    databaseUrl: config.databaseUrl,
    role: 'ingest_api',
    applicationName: 'ingest-api serve',
  };
  await refuseUnusable(connection);
  await prepareDataDir(config.dataDir);
  const { db } = openDatabase({
    ...connection,
    lockTimeoutMs: DATABASE_LOCK_MS,
    maxConnections: config.databaseConnections,
    silenceTimeoutMs: DATABASE_SILENCE_MS,
    onIdleError: (error) => log.warn({ err: describeError(error) }, 'an idle database connection was lost'),
  });
  const locks = new UploadLocks({
    dataDir: config.dataDir,
    connection: { ...connection, applicationName: 'ingest-api serve (locks)' },
    records: uploadRecords(db),
    onSessionLost: (reason) => log.warn({ err: reason }, 'the locks of uploads were lost; their writes stop'),
  });
  const store = new DurableStore({
    dataDir: config.dataDir,
    claimOf: (uploadId) => locks.claimOf(uploadId),
  });
  const noteQueued = (revisions: readonly MovedRevision[]) => {
    for (const { model, run, revision } of revisions) log.info({ model, run, revision }, 'run queued');
  };
  let isOpen = false;
  const readiness = new Readiness(
    { ...connection, applicationName: 'ingest-api serve (readyz)' },
    config.dataDir,
  );
  const noteLost = (lost: readonly LostBytes[]) => {
    for (const upload of lost)
      log.error(upload, 'the disk has lost bytes of an upload; they are to be sent again');
  };
  const app = createApp({
    db,
    dataDir: config.dataDir,
    maxUploadBytes: config.maxUploadBytes,
    expireUploadsMs: config.expireUploadsMs,
    store,
    locks,
    readiness,
    room: roomCheck({ db, ...config }),
    log,
    guard: config.guard,
    runLimits: config.runLimits,
    isStopping: () => signal.aborted,
    isOpen: () => isOpen,
    onQueued: noteQueued,
    onLost: noteLost,
  });
  const server = await createListener(app, config);
  let isCompared = false;
  const compareOnce = async () => {
    if (isCompared) return;
    noteLost(await setBackAllShort(db, config.dataDir));
    isCompared = true;
  };
  const sweep = () =>
    renewStore(db, config.dataDir)
      .then(compareOnce)
      .then(() => queueCompleteRevisions(db, 'all'))
      .then(noteQueued)
      .then(() => removeEndedSessions(db))
      .then(() => removeFiles(db, config.dataDir, config))
      .then(({ expired, removedFiles, removedBytes }) => {
        for (const { model, run, revision } of expired)
          log.info({ model, run, revision }, 'run cancelled: it received no bytes for too long');
        if (removedFiles > 0) log.info({ removedFiles, removedBytes }, 'files removed that no run needs');
      })
      .catch((error: unknown) =>
        log.warn({ err: describeError(error) }, 'the sweep failed; it runs again in a minute'),
      );

  // Before anything is changed; while the database is away the service answers 503, and looks again.
  try {
    isOpen = await openWhenReachable(db, config.dataDir, log);
  } catch (error) {
    await db.destroy();
    throw error;
  }
  server.listen(config.port, config.host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  void readiness.check().catch(() => {}); // makes its connection before it is needed; who asks hears what is wrong
  log.info({ host: config.host, port, dataDir: config.dataDir }, 'listening');
  try {
    while (!isOpen && !signal.aborted) {
      await delay(OPEN_AGAIN_MS, undefined, { signal }).catch(() => {}); // aborted: that is how it ends
      isOpen = await openWhenReachable(db, config.dataDir, log);
    }
  } catch (error) {
    server.close().closeAllConnections();
    await Promise.all([locks.close(), readiness.close(), db.destroy()]);
    throw error;
  }
  await sweep();
  const sweeping = setInterval(sweep, SWEEP_EVERY_MS);

  if (!signal.aborted) await once(signal, 'abort');
  log.info('stopping');
  clearInterval(sweeping);
  const closed = once(server, 'close');
  server.close();
  const cut = setTimeout(() => server.closeAllConnections(), GRACE_MS);
  await closed;
  clearTimeout(cut);
  await locks.close(); // what had come in of a broken PATCH is synced and recorded
  await readiness.close();
  await db.destroy();
  log.info('stopped');
}
