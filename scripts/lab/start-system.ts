import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { startDatabase } from './database.ts';
import { runIngestApi, startIngestApi } from './ingest-api-process.ts';
import type { LabEnv } from './lab-env.ts';
import { type LabSettings, USUAL_PORT } from './lab-settings.ts';
import { makeLogins } from './logins.ts';
import type { Stoppable } from './stoppable.ts';
import { labToken } from './token.ts';

export interface System {
  env: LabEnv;
  /** Rejects when a part ends that nobody stopped. */
  broken: Promise<never>;
}

/** Everything that is started goes into `parts` at once, so that it is stopped also when a later step fails. */
export async function startSystem(settings: LabSettings, parts: Stoppable[]): Promise<System> {
  const logDir = join(settings.home, 'logs');
  const uploadDir = join(settings.home, 'uploads');
  await Promise.all([logDir, uploadDir].map((dir) => mkdir(dir, { recursive: true, mode: 0o700 })));

  console.log('lab: starting PostgreSQL');
  const database = await startDatabase(settings.home, logDir);
  parts.push(database);
  console.log('lab: migrating');
  await runIngestApi(['migrate'], { DATABASE_URL: database.url });
  const logins = await makeLogins(database.url);
  const uploaderToken = await labToken(settings.home, database.url);

  console.log('lab: starting service and loader');
  const port = settings.port ?? (await usualOrAnyPort());
  const storage = { INGEST_DATA_DIR: uploadDir };
  const listen = { INGEST_HOST: '127.0.0.1', INGEST_PORT: String(port) };
  const serve = startIngestApi('serve', { DATABASE_URL: logins.apiUrl, ...storage, ...listen }, logDir);
  parts.push(serve);
  const load = startIngestApi('load', { DATABASE_URL: logins.loaderUrl, ...storage }, logDir);
  parts.push(load);

  const broken = Promise.race([database.broken, serve.broken, load.broken]);
  // Whoever awaits `broken` hears of it; before that, its rejection must not end the process unhandled.
  broken.catch(() => undefined);
  const listening = await Promise.race([broken, serve.listening]);
  const url = `http://127.0.0.1:${listening}`;
  return {
    env: { uploaderUrl: url, uploaderToken, databaseUrl: database.url, statusUrl: `${url}/` },
    broken,
  };
}

function usualOrAnyPort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer()
      .once('error', () => resolve(0))
      .listen(USUAL_PORT, '127.0.0.1', () => probe.close(() => resolve(USUAL_PORT)));
  });
}
