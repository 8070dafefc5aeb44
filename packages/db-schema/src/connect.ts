import { Socket } from 'node:net';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { parseDatabaseUrl } from './database-url.ts';
import type { Database } from './tables.ts';

/** The group role that a process works as, whatever its login. */
type ServiceRole = 'ingest_api' | 'ingest_loader';

export interface ConnectOptions {
  readonly databaseUrl: string;
  /** By default the session has the rights of its login: `migrate` works as the owner of the database. */
  readonly role?: ServiceRole;
  /** Shown in `pg_stat_activity`, whatever DATABASE_URL says: the service counts running loaders by it. */
  readonly applicationName: string;
  /** A connection that transfers no byte for this long is closed; a statement that waits on it fails. */
  readonly silenceTimeoutMs?: number;
  /**
   * For connecting, and for preparing the session; 10 s by default. A lower connect_timeout in DATABASE_URL
   * also applies.
   */
  readonly connectTimeoutMs?: number;
  /** A statement that waits longer for a lock fails with 55P03. By default there is no limit. */
  readonly lockTimeoutMs?: number;
}

/** Retrying does not help: an operator has to change the address, the login or the pooler. */
export class UnusableDatabase extends Error {
  override readonly name = 'UnusableDatabase';
}

const CONNECT_TIMEOUT_MS = 10_000;

/**
 * A connection outside the pool, ready for use. An error that breaks it fails only the current statement; a
 * caller that has to know about it between two statements listens for `end`. Aborting `signal` closes the
 * connection at once.
 *
 * @throws {UnusableDatabase} when only an operator can help; otherwise the error of PostgreSQL or of the
 *   network.
 */
export async function connect(options: ConnectOptions, signal?: AbortSignal): Promise<pg.Client> {
  const client = new pg.Client(clientConfig(options));
  client.on('error', () => {});
  const cut = () => destroyConnection(client, 'this process is stopping.');
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

/**
 * A pool with Kysely on top. `onIdleError` receives the errors of idle connections; the pool replaces these
 * itself.
 */
export function openDatabase(
  options: ConnectOptions & { readonly maxConnections: number; onIdleError(error: Error): void },
): { db: Kysely<Database>; pool: pg.Pool } {
  const pool = new pg.Pool({
    ...clientConfig(options),
    max: options.maxConnections,
    // The pool awaits it before it hands out the client, which its types do not say.
    onConnect: ((client: pg.ClientBase) => prepareSession(client, options)) as (
      client: pg.ClientBase,
    ) => void,
  });
  pool.on('error', options.onIdleError);
  // A connection that breaks between two statements of a transaction emits an error here and nowhere else;
  // without a listener it would end the process. The next statement on it fails.
  pool.on('connect', (client) => client.on('error', () => {}));
  return { db: new Kysely<Database>({ dialect: new PostgresDialect({ pool }) }), pool };
}

/**
 * For the start of a process: throws when an operator has to change the address, the login or a pooler first.
 * It does not throw when the server is unreachable: it may be back soon.
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

/**
 * Closes a connection without waiting for the server, which may never answer; running queries are rejected.
 */
export function destroyConnection(client: pg.ClientBase, reason: string): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(error: Error): void } } };
  connection.stream.destroy(new Error(`Connection terminated: ${reason}`));
}

/** bigint columns count bytes, lines and rows, all far below 2^53: this program reads them as numbers. */
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 && format !== 'binary'
      ? Number
      : pg.types.getTypeParser(oid, format)) as pg.CustomTypesConfig['getTypeParser'],
};

function clientConfig(options: ConnectOptions): pg.ClientConfig {
  const { databaseUrl, applicationName, silenceTimeoutMs, connectTimeoutMs = CONNECT_TIMEOUT_MS } = options;
  const address = parseDatabaseUrl(databaseUrl);
  return {
    ...address,
    ...(silenceTimeoutMs === undefined ? {} : { stream: () => impatientSocket(silenceTimeoutMs) }),
    application_name: applicationName,
    connectionTimeoutMillis: Math.min(address.connectionTimeoutMillis || connectTimeoutMs, connectTimeoutMs),
    keepAlive: true, // off by default in pg
    keepAliveInitialDelayMillis: 15_000,
    types,
  };
}

/**
 * Without it a statement waits for a server that hangs or is unreachable until TCP times out, after about 15
 * minutes.
 */
function impatientSocket(silenceTimeoutMs: number): Socket {
  const socket = new Socket();
  socket.setTimeout(silenceTimeoutMs, () => {
    socket.destroy(
      new Error(`Connection terminated: PostgreSQL sent nothing for ${silenceTimeoutMs / 1000} s.`),
    );
  });
  return socket;
}

interface SessionFacts {
  readonly who: string;
  readonly pid: number;
  /** The default tablespace, if the role may create nothing in it. */
  readonly closed_tablespace: string | null;
  readonly is_migrated: boolean;
  readonly database: string;
}

async function prepareSession(client: pg.ClientBase, options: ConnectOptions): Promise<void> {
  const { role, connectTimeoutMs = CONNECT_TIMEOUT_MS, lockTimeoutMs = 0 } = options;
  const timer = setTimeout(() => {
    destroyConnection(client, `PostgreSQL did not prepare the session within ${connectTimeoutMs / 1000} s.`);
  }, connectTimeoutMs);
  try {
    // pg returns an array for several statements, which its types do not say.
    const results = (await prepared(client, preparation(role, lockTimeoutMs)).catch(
      async (error: unknown) => {
        throw await explainRefusal(client, role, error);
      },
    )) as unknown as pg.QueryResult<SessionFacts>[];
    const facts = results.at(-1)?.rows[0];
    if (facts === undefined) throw new Error('PostgreSQL did not return the role of the session.');
    if (role !== undefined && facts.who !== role)
      throw new UnusableDatabase(
        `The session has the role ${facts.who} instead of ${role}: SET ROLE had no effect. A pooler may have lost it: connect to PostgreSQL directly.`,
      );
    if (role !== undefined && !facts.is_migrated)
      throw new UnusableDatabase(
        `The database "${facts.database}" has no schema "ingest". If DATABASE_URL names the right one, run "ingest-api migrate" as its owner first.`,
      );
    if (role !== 'ingest_api' && facts.closed_tablespace !== null)
      throw new UnusableDatabase(
        `default_tablespace is ${facts.closed_tablespace}, and ${facts.who} may not create tables there. Run as an administrator: GRANT CREATE ON TABLESPACE "${facts.closed_tablespace}" TO "${facts.who}"; or reset default_tablespace for the login and the database.`,
      );
    const { processID } = client as unknown as { processID: number | null };
    if (processID !== facts.pid) await refuseSharedBackends(client, facts.pid, options);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The settings that change the meaning of our SQL, of its results or of its errors, or end a session, a
 * statement or a wait. They are set after connecting, because a role, a database, DATABASE_URL and a pooler
 * can each set another value, and PgBouncer refuses the start-up parameter `options`. Settings that only
 * affect speed or the place of tables (work_mem, enable_*, default_tablespace) belong to the operator; a
 * default_tablespace that cannot be used is refused.
 * Settings that the server does not have are skipped.
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
  default_table_access_method: 'heap', // COPY (FREEZE) needs it
  default_transaction_isolation: 'read committed',
  default_transaction_read_only: 'off',
  default_transaction_deferrable: 'off',
  row_security: 'off', // a policy that would hide rows is an error
  restrict_nonsystem_relation_kind: '',
  exit_on_error: 'off',
  statement_timeout: '0',
  transaction_timeout: '0', // PostgreSQL 17
  idle_session_timeout: '0',
  // For a process that stalls between two statements. A load sets its own value.
  idle_in_transaction_session_timeout: '60s',
  // The server ends the session of a dead host, with its transaction and its locks, after 30 s. Its default
  // is two hours, during which a dead loader counts as running. The last setting covers bytes that the host
  // does not acknowledge (a notification, a result): meanwhile TCP sends no keepalives, and would retransmit
  // for about 15 minutes.
  tcp_keepalives_idle: '15',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '30000',
};

/**
 * One round trip. Only `synchronous_commit = off` is overruled: an acknowledged offset must survive a crash
 * of PostgreSQL. A default_tablespace that is the database's own means the same as none, except that
 * partitioned tables refuse it.
 */
function preparation(role: ServiceRole | undefined, lockTimeoutMs: number): string {
  const settings = { ...SETTINGS, lock_timeout: String(lockTimeoutMs) };
  const rows = Object.entries(settings).map(([name, value]) => `('${name}', '${value}')`);
  return `
    SET search_path = pg_catalog;
    ${role === undefined ? '' : `SET ROLE ${role};`}
    SELECT set_config(name, value, false)
    FROM (VALUES ${rows.join(', ')}) AS wanted (name, value) WHERE current_setting(name, true) IS NOT NULL;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
    SELECT set_config('default_tablespace', '', false)
    FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
    WHERE datname = current_database() AND spcname = current_setting('default_tablespace');
    SELECT current_user AS who, pg_backend_pid() AS pid, (
      SELECT spcname FROM pg_tablespace
      WHERE spcname = current_setting('default_tablespace') AND NOT has_tablespace_privilege(oid, 'CREATE')
    ) AS closed_tablespace, EXISTS (SELECT FROM pg_namespace WHERE nspname = 'ingest') AS is_migrated,
      current_database() AS database`;
}

const QUERY_CANCELED = '57014';

/** A time-out that is too short even for these statements applies until one of them has ended. */
async function prepared(client: pg.ClientBase, statements: string): Promise<unknown> {
  return client.query(statements).catch(async (error: unknown) => {
    if (!(error instanceof pg.DatabaseError) || error.code !== QUERY_CANCELED) throw error;
    await client.query('SET statement_timeout = 0');
    return client.query(statements);
  });
}

/** The error to throw: an `UnusableDatabase` when SET ROLE was refused. */
async function explainRefusal(
  client: pg.ClientBase,
  role: ServiceRole | undefined,
  error: unknown,
): Promise<unknown> {
  const code = error instanceof pg.DatabaseError ? error.code : undefined;
  if (role === undefined || (code !== '42501' && code !== '22023')) return error;
  const { rows } = await client.query<{ login: string; role_exists: boolean }>(
    `SELECT session_user AS login, EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1) AS role_exists`,
    [role],
  );
  const { login = '', role_exists = false } = rows[0] ?? {};
  if (!role_exists)
    return new UnusableDatabase(
      `The server has no role ${role}. Run "ingest-api migrate" as the owner of the database first.`,
      { cause: error },
    );
  return code === '42501'
    ? new UnusableDatabase(
        `The login "${login}" is not a member of the role ${role}. Run as an administrator: GRANT ${role} TO "${login}"; or use a login in DATABASE_URL that is a member.`,
        { cause: error },
      )
    : error;
}

const ROUNDS = 10;
const ROUND_TIMEOUT_MS = 3_000;
/** Results by address: a process checks each address once. */
const checkedAddresses = new Map<string, Promise<void>>();

/**
 * Refuses poolers that assign a backend per transaction: there SET, LISTEN and session locks are lost without
 * an error. A pooler shows in the cancel key, which names another process than the backend. The pooling mode
 * shows while a second client has a transaction open: either that client has the first one's backend, or the
 * first one gets a new backend. Other clients of the pooler can hide this, so it is tried several times.
 */
async function refuseSharedBackends(
  client: pg.ClientBase,
  pid: number,
  options: ConnectOptions,
): Promise<void> {
  const known = checkedAddresses.get(options.databaseUrl);
  if (known !== undefined) return known;
  const answer = tryToLoseBackend(client, pid, options);
  checkedAddresses.set(options.databaseUrl, answer);
  answer.catch(() => checkedAddresses.delete(options.databaseUrl)); // the pooler's configuration can change
  return answer;
}

async function tryToLoseBackend(client: pg.ClientBase, pid: number, options: ConnectOptions): Promise<void> {
  const other = new pg.Client(clientConfig(options));
  other.on('error', () => {});
  const pidOf = async (asked: pg.ClientBase) =>
    (await asked.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid;
  // A pooler in session mode without a free backend makes this client wait: it passes the check.
  const timer = setTimeout(
    () => destroyConnection(other, 'the pooler assigned no backend.'),
    ROUND_TIMEOUT_MS,
  );
  try {
    await other.connect();
    for (let round = 0; round < ROUNDS; round += 1) {
      await other.query('BEGIN');
      const isShared = (await pidOf(other)) === pid || (await pidOf(client)) !== pid;
      await other.query('ROLLBACK');
      if (isShared) throw transactionPooling();
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
    'The pooler in front of PostgreSQL assigns a backend for one transaction only, so that SET, LISTEN and locks are lost. Use pool_mode = session for this database, or connect to PostgreSQL directly.',
  );
}
