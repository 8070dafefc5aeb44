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
 * What the server asks of a connection that is silent: half a minute after its host has died the session ends, with
 * its transaction and its locks. Without them that takes two hours, and a loader that is gone counts as running. The last one
 * is for bytes that nobody acknowledges (a notification, an answer): while they are on their way TCP sends no keepalives, and
 * would try for a quarter of an hour.
 */
const SERVER_KEEPALIVES =
  '-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=30000';

/** A process that is frozen in the middle of a transaction keeps its connection: what it has locked is freed after this. */
const FROZEN_TRANSACTION = '-c idle_in_transaction_session_timeout=60000';

/**
 * How every connection of this product is made: a fixed role and search_path (each name in our SQL says its
 * schema), UTC, TCP keepalives from both ends (pg leaves its own off).
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
    options: `-c role=${role} -c search_path=pg_catalog -c timezone=UTC ${SERVER_KEEPALIVES} ${FROZEN_TRANSACTION}`,
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
