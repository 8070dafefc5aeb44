import { Socket } from 'node:net';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import type { Database } from './tables.ts';

/** The group role whose rights a process works with, whatever login it came in by. */
export type ServiceRole = 'ingest_api' | 'ingest_loader';

export interface ConnectOptions {
  readonly databaseUrl: string;
  readonly role: ServiceRole;
  /** Shown in `pg_stat_activity`. */
  readonly applicationName: string;
  /** A connection on which no byte moves for so long is ended, and what waits on it fails. */
  readonly silenceTimeoutMs?: number;
}

/** bigint counts bytes, lines and rows here, all far below 2^53: they are numbers in this program. */
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 && format !== 'binary'
      ? Number
      : pg.types.getTypeParser(oid, format)) as pg.CustomTypesConfig['getTypeParser'],
};

/**
 * How every connection of this product is made: a fixed role and search_path (each name in our SQL says its
 * schema), UTC, TCP keepalives (pg leaves them off; a dead host would hold its rows for two hours).
 */
export function clientConfig({
  databaseUrl,
  role,
  applicationName,
  silenceTimeoutMs,
}: ConnectOptions): pg.ClientConfig {
  return {
    ...(silenceTimeoutMs === undefined ? {} : { stream: () => impatientSocket(silenceTimeoutMs) }),
    connectionString: databaseUrl,
    application_name: applicationName,
    options: `-c role=${role} -c search_path=pg_catalog -c timezone=UTC`,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 15_000,
    types,
  };
}

/** A server that hangs, or that is cut off without a word, would be waited for until TCP gives up: a quarter of an hour. */
function impatientSocket(silenceTimeoutMs: number): Socket {
  const socket = new Socket();
  socket.setTimeout(silenceTimeoutMs, () => {
    socket.destroy(
      new Error(`Connection terminated: PostgreSQL was silent for ${silenceTimeoutMs / 1000} s.`),
    );
  });
  return socket;
}

/** A pool behind Kysely. `onIdleError` hears of idle connections that broke; the pool replaces them by itself. */
export function openDatabase(
  options: ConnectOptions & { readonly maxConnections: number; onIdleError(error: Error): void },
): { db: Kysely<Database>; pool: pg.Pool } {
  const pool = new pg.Pool({ ...clientConfig(options), max: options.maxConnections });
  pool.on('error', options.onIdleError);
  // A connection that is lost between two statements of a transaction tells nobody else; unheard, it would end
  // the process. The next statement on it fails.
  pool.on('connect', (client) => client.on('error', () => {}));
  return { db: new Kysely<Database>({ dialect: new PostgresDialect({ pool }) }), pool };
}
