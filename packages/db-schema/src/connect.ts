import { Socket } from 'node:net';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { parseDatabaseUrl } from './database-url.ts';
import type { Database } from './tables.ts';

/** The group role whose rights a process works with, whatever login it came in by. */
export type ServiceRole = 'ingest_api' | 'ingest_loader';

export interface ConnectOptions {
  readonly databaseUrl: string;
  /** Without one the session has the rights of its login: `migrate` works as the owner of the database. */
  readonly role?: ServiceRole;
  /** Shown in `pg_stat_activity`, whatever DATABASE_URL says: running loaders are counted by it. */
  readonly applicationName: string;
  /** A connection on which no byte moves for this long is ended, and what waits on it fails. */
  readonly silenceTimeoutMs?: number;
  /** To connect and to prepare the session; 10 s by default, and never more than DATABASE_URL's connect_timeout. */
  readonly connectTimeoutMs?: number;
  /** A statement that waits longer for a lock fails with 55P03. By default it waits. */
  readonly lockTimeoutMs?: number;
}

/** Nothing is broken, and no retry helps: an operator has to change the address, the login or the pooler. */
export class UnusableDatabase extends Error {
  override readonly name = 'UnusableDatabase';
}

const CONNECT_TIMEOUT_MS = 10_000;

/** bigint counts bytes, lines and rows here, all far below 2^53: they are numbers in this program. */
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 && format !== 'binary'
      ? Number
      : pg.types.getTypeParser(oid, format)) as pg.CustomTypesConfig['getTypeParser'],
};

/**
 * What changes the meaning of our SQL, of the answers or of our errors, or ends a session, a statement or a wait. It is set
 * after connecting: a role, a database, DATABASE_URL and a pooler may each have set something else, and PgBouncer
 * refuses the start-up parameter `options`. What only makes things faster or slower, or says where tables are stored
 * (work_mem, enable_*, default_tablespace), is the operator's. A setting that the server does not have is left out.
 */
const SETTINGS: Readonly<Record<string, string>> = {
  timezone: 'UTC',
  datestyle: 'ISO, YMD',
  intervalstyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  client_encoding: 'UTF8',
  standard_conforming_strings: 'on',
  array_nulls: 'on',
  transform_null_equals: 'off',
  quote_all_identifiers: 'off',
  default_table_access_method: 'heap', // COPY (FREEZE) is PostgreSQL's own
  default_transaction_isolation: 'read committed',
  default_transaction_read_only: 'off',
  default_transaction_deferrable: 'off',
  row_security: 'off', // a policy would hide rows without a word; so it is an error
  restrict_nonsystem_relation_kind: '',
  exit_on_error: 'off',
  statement_timeout: '0',
  transaction_timeout: '0', // PostgreSQL 17
  idle_session_timeout: '0',
  // Of a process that is stopped between two statements. A load sets its own.
  idle_in_transaction_session_timeout: '60s',
  // After 30 s the server ends the session of a host that has died, with its transaction and its locks; by itself it
  // takes two hours, and a loader that has gone counts as running. The last one is for bytes that nobody acknowledges (a
  // notification, an answer): while they are on their way TCP sends no keepalives, and would try for a quarter of an hour.
  tcp_keepalives_idle: '15',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '30000',
};

/** One round trip. An acknowledged offset must survive a crash of PostgreSQL: how far the commit travels is the operator's. */
function preparation(role: ServiceRole | undefined, lockTimeoutMs: number): string {
  const settings = { ...SETTINGS, lock_timeout: String(lockTimeoutMs) };
  const rows = Object.entries(settings).map(([name, value]) => `('${name}', '${value}')`);
  return `
    SET search_path = pg_catalog;
    ${role === undefined ? '' : `SET ROLE ${role};`}
    SELECT set_config(name, value, false)
    FROM (VALUES ${rows.join(', ')}) AS wanted (name, value) WHERE current_setting(name, true) IS NOT NULL;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
    SELECT current_user AS who, session_user AS login, pg_backend_pid() AS pid`;
}

function clientConfig(options: ConnectOptions): pg.ClientConfig {
  const { databaseUrl, applicationName, silenceTimeoutMs, connectTimeoutMs = CONNECT_TIMEOUT_MS } = options;
  const address = parseDatabaseUrl(databaseUrl);
  return {
    ...address,
    ...(silenceTimeoutMs === undefined ? {} : { stream: () => impatientSocket(silenceTimeoutMs) }),
    application_name: applicationName,
    connectionTimeoutMillis: Math.min(address.connectionTimeoutMillis || connectTimeoutMs, connectTimeoutMs),
    keepAlive: true, // pg leaves it off
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

/**
 * A connection outside the pool, ready for use. An error that breaks it fails the statement under way, and that alone;
 * whoever has to know of it between two statements listens for `end`. When `signal` is aborted it is cut at once.
 *
 * @throws {UnusableDatabase} when only an operator can help; else what PostgreSQL or the network answered.
 */
export async function connect(options: ConnectOptions, signal?: AbortSignal): Promise<pg.Client> {
  const client = new pg.Client(clientConfig(options));
  client.on('error', () => {});
  const cut = () => destroyConnection(client, 'this process stops.');
  signal?.addEventListener('abort', cut, { once: true });
  client.once('end', () => signal?.removeEventListener('abort', cut));
  try {
    signal?.throwIfAborted();
    await client.connect();
    await prepareSession(client, options);
    return client;
  } catch (error) {
    signal?.removeEventListener('abort', cut);
    await client.end().catch(() => {});
    throw error;
  }
}

/** Ends a connection without waiting for the server, which may never answer again; queries under way are rejected. */
export function destroyConnection(client: pg.ClientBase, reason: string): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(error: Error): void } } };
  connection.stream.destroy(new Error(`Connection terminated: ${reason}`));
}

/** A pool behind Kysely. `onIdleError` hears of idle connections that broke; the pool replaces them by itself. */
export function openDatabase(
  options: ConnectOptions & { readonly maxConnections: number; onIdleError(error: Error): void },
): { db: Kysely<Database>; pool: pg.Pool } {
  const pool = new pg.Pool({
    ...clientConfig(options),
    max: options.maxConnections,
    // Awaited by the pool before anybody gets the client; its types do not say so.
    onConnect: ((client: pg.ClientBase) => prepareSession(client, options)) as (
      client: pg.ClientBase,
    ) => void,
  });
  pool.on('error', options.onIdleError);
  // A connection that is lost between two statements of a transaction tells nobody else; unheard, it would end
  // the process. The next statement on it fails.
  pool.on('connect', (client) => client.on('error', () => {}));
  return { db: new Kysely<Database>({ dialect: new PostgresDialect({ pool }) }), pool };
}

/**
 * At a start: fails when the address, the login or a pooler has to be changed first. A server that cannot be reached
 * is no such fault: it may come back.
 *
 * @throws {UnusableDatabase}
 */
export async function refuseUnusable(options: ConnectOptions): Promise<void> {
  try {
    await (await connect(options)).end();
  } catch (error) {
    if (error instanceof UnusableDatabase) throw error;
  }
}

interface SessionFacts {
  readonly who: string;
  readonly login: string;
  readonly pid: number;
}

async function prepareSession(client: pg.ClientBase, options: ConnectOptions): Promise<void> {
  const { role, connectTimeoutMs = CONNECT_TIMEOUT_MS, lockTimeoutMs = 0 } = options;
  const timer = setTimeout(() => {
    destroyConnection(client, `PostgreSQL did not prepare a session within ${connectTimeoutMs / 1000} s.`);
  }, connectTimeoutMs);
  try {
    // pg answers several statements with an array, which its types do not say.
    const results = (await client.query(preparation(role, lockTimeoutMs)).catch(async (error: unknown) => {
      throw await explainRefusal(client, role, error);
    })) as unknown as pg.QueryResult<SessionFacts>[];
    const facts = results.at(-1)?.rows[0];
    if (facts === undefined) throw new Error('PostgreSQL did not say who the session works as.');
    if (role !== undefined && facts.who !== role)
      throw new UnusableDatabase(
        `The session works as ${facts.who}, not as ${role}: SET ROLE had no effect.`,
      );
    const { processID } = client as unknown as { processID: number | null };
    if (processID !== facts.pid) await refuseSharedBackends(client, facts.pid, options);
  } finally {
    clearTimeout(timer);
  }
}

/** Why SET ROLE was refused, when that was it. */
async function explainRefusal(
  client: pg.ClientBase,
  role: ServiceRole | undefined,
  error: unknown,
): Promise<unknown> {
  const code = error instanceof pg.DatabaseError ? error.code : undefined;
  if (role === undefined || (code !== '42501' && code !== '22023')) return error;
  const { rows } = await client.query<{ login: string; there: boolean }>(
    `SELECT session_user AS login, EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1) AS there`,
    [role],
  );
  const { login = '', there = false } = rows[0] ?? {};
  if (!there)
    return new UnusableDatabase(
      `The server has no role ${role}. Run "ingest-api migrate" as the owner of the database first.`,
      { cause: error },
    );
  return code === '42501'
    ? new UnusableDatabase(
        `The login "${login}" is not a member of the role ${role}. As an administrator: GRANT ${role} TO "${login}"; or give DATABASE_URL a login that is one.`,
        { cause: error },
      )
    : error;
}

const ROUNDS = 10;
const ROUND_TIMEOUT_MS = 3_000;
/** Answers by address: one look is enough for a process. */
const heldByClient = new Map<string, Promise<void>>();

/**
 * Behind a pooler (the key for cancelling names another process than the backend's) a session may be no session:
 * where backends are lent for a transaction, SET, LISTEN and locks are lost without an error. It shows when another client
 * has a transaction open: the first client's backend has then been lent to that one, or it gets a new one. As further
 * clients may come in between, it is tried some times.
 */
async function refuseSharedBackends(
  client: pg.ClientBase,
  pid: number,
  options: ConnectOptions,
): Promise<void> {
  const known = heldByClient.get(options.databaseUrl);
  if (known !== undefined) return known;
  const answer = tryToLoseBackend(client, pid, options);
  heldByClient.set(options.databaseUrl, answer);
  answer.catch(() => heldByClient.delete(options.databaseUrl)); // a pooler can be configured anew
  return answer;
}

async function tryToLoseBackend(client: pg.ClientBase, pid: number, options: ConnectOptions): Promise<void> {
  const other = new pg.Client(clientConfig(options));
  other.on('error', () => {});
  const pidOf = async (asked: pg.ClientBase) =>
    (await asked.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid;
  // A pooler that holds backends for their clients, and has too few of them, lets this one wait: it has passed.
  const timer = setTimeout(() => destroyConnection(other, 'the pooler lent no backend.'), ROUND_TIMEOUT_MS);
  try {
    await other.connect();
    for (let round = 0; round < ROUNDS; round += 1) {
      await other.query('BEGIN');
      const isLent = (await pidOf(other)) === pid || (await pidOf(client)) !== pid;
      await other.query('ROLLBACK');
      if (isLent) throw transactionPooling();
    }
  } catch (error) {
    if (error instanceof UnusableDatabase) throw error;
    if (/statement pooling/.test(String(error))) throw transactionPooling();
  } finally {
    clearTimeout(timer);
    await other.end().catch(() => {});
  }
}

function transactionPooling(): UnusableDatabase {
  return new UnusableDatabase(
    'The pooler between here and PostgreSQL lends a backend for one transaction only, so that SET, LISTEN and locks are lost. Use pool_mode = session for this database, or the address of PostgreSQL itself.',
  );
}
