import { readFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server, type ServerOptions } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { GuardConfig, TlsFiles } from '../guard-config.ts';
import { demandMinimumRate } from './minimum-rate.ts';

export interface ListenerOptions {
  readonly guard: GuardConfig;
  readonly idleTimeoutMs: number;
}

/** An upload may take hours: no limit on a whole request, but on every pause in it. */
const LIMITS: ServerOptions = {
  requestTimeout: 0,
  headersTimeout: 30_000,
  keepAliveTimeout: 10_000,
  connectionsCheckingInterval: 5_000,
};

/** HTTP or HTTPS, with everything that a connection may not do to us; not listening yet. */
export async function createListener(
  app: RequestListener,
  { guard, idleTimeoutMs }: ListenerOptions,
): Promise<Server> {
  const server =
    guard.tls === undefined
      ? createServer(LIMITS, app)
      : createTlsServer({ ...LIMITS, ...(await readTls(guard.tls)) }, app);
  server.timeout = idleTimeoutMs;
  server.maxConnections = guard.maxConnections;
  demandMinimumRate(server, { minBytesPerSecond: guard.minBytesPerSecond, windowMs: idleTimeoutMs });
  return server;
}

/** @throws a sentence that names the file and the variable. */
async function readTls({ certFile, keyFile, clientCaFile }: TlsFiles) {
  const [cert, key] = await Promise.all([
    read('INGEST_TLS_CERT_FILE', certFile),
    read('INGEST_TLS_KEY_FILE', keyFile),
  ]);
  const base = { cert, key, minVersion: 'TLSv1.2' } as const;
  if (clientCaFile === undefined) return base;
  const ca = await read('INGEST_TLS_CLIENT_CA_FILE', clientCaFile);
  return { ...base, ca, requestCert: true, rejectUnauthorized: true };
}

async function read(variable: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new Error(`${variable} cannot be read; give the path of a PEM file.`, { cause: error });
  }
}
