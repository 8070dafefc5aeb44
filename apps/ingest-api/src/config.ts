import { readFileSync } from 'node:fs';
import { parseDatabaseUrl } from 'db-schema';
import { z } from 'zod';
import type { RunLimits } from './runs/models.ts';

/** One variable of the environment: its name, the rule and default of its value, and its line in `--help`. */
interface Variable<Schema extends z.ZodType = z.ZodType> {
  readonly name: string;
  readonly schema: Schema;
  readonly help: string;
}

function variable<Schema extends z.ZodType>(name: string, schema: Schema, help: string): Variable<Schema> {
  return { name, schema, help };
}

const HOUR_MS = 60 * 60 * 1000;

const integer = z.coerce.number().int();
const positive = integer.positive();
const path = z.string().min(1);
const hours = (fallback: number) =>
  z.coerce
    .number()
    .positive()
    .max(100_000)
    .default(fallback)
    .transform((value) => value * HOUR_MS);
const postgresSize = z.string().regex(/^\d+(kB|MB|GB)$/, 'must be a PostgreSQL size such as 128MB');
/** Checked as a whole at the start, so that a fault of the address does not look like a database that is out of reach. */
const databaseUrl = z.string().superRefine((text, context) => {
  try {
    parseDatabaseUrl(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
  }
});
const addressList = z
  .string()
  .default('')
  .transform((text) => text.split(',').flatMap((part) => part.trim() || []))
  .pipe(z.array(z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], 'must be addresses or CIDR blocks')));

const DATABASE = {
  databaseUrl: variable(
    'DATABASE_URL',
    databaseUrl,
    "PostgreSQL, with this role's login; or DATABASE_URL_FILE, a file that holds it.",
  ),
  logLevel: variable(
    'INGEST_LOG_LEVEL',
    z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    'Least severe level that is logged.',
  ),
};

const STORE = {
  ...DATABASE,
  dataDir: variable(
    'INGEST_DATA_DIR',
    path,
    'Folder for the bytes of uploads; the same one for service and loader.',
  ),
};

/** The limits of a run; the contract of its model may set others. */
const RUN_LIMITS = {
  maxBytes: variable(
    'INGEST_MAX_RUN_BYTES',
    positive.default(32 * 1024 ** 3),
    'Largest run, in bytes of decompressed lines, unless the contract of its model sets maxBytes.',
  ),
  maxRows: variable(
    'INGEST_MAX_RUN_ROWS',
    positive.default(1_000_000_000),
    'Most rows of a run, unless the contract of its model sets maxRows.',
  ),
};

/** What limits hostile or broken clients. */
const GUARD = {
  ratePerMinute: variable(
    'INGEST_RATE_PER_MINUTE',
    positive.default(30_000),
    'Requests per minute of one token; more are answered 429.',
  ),
  failedLoginsPerMinute: variable(
    'INGEST_FAILED_LOGINS_PER_MINUTE',
    positive.default(300),
    'Requests per minute without a valid token from one address; more are answered 429.',
  ),
  maxConnections: variable('INGEST_MAX_CONNECTIONS', positive.default(1_000), 'Open client connections.'),
  minBytesPerSecond: variable(
    'INGEST_MIN_BYTES_PER_SECOND',
    integer.min(0).default(1_024),
    'A request body that is slower than this, over one idle time-out, is cut off; 0 allows any rate.',
  ),
  maxOpenUploads: variable(
    'INGEST_MAX_OPEN_UPLOADS',
    positive.default(250_000),
    'Unfinished uploads of one token.',
  ),
  maxTokenBytes: variable(
    'INGEST_MAX_TOKEN_BYTES',
    positive.default(1024 ** 4),
    'Bytes that the uploads of one token may hold on the disk or still need.',
  ),
  trustedProxies: variable(
    'INGEST_TRUSTED_PROXIES',
    addressList,
    'Addresses or CIDR blocks, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto are believed.',
  ),
};

const TLS = {
  certFile: variable(
    'INGEST_TLS_CERT_FILE',
    path.optional(),
    'PEM certificate; with it the service speaks HTTPS.',
  ),
  keyFile: variable('INGEST_TLS_KEY_FILE', path.optional(), 'PEM key of that certificate.'),
  clientCaFile: variable(
    'INGEST_TLS_CLIENT_CA_FILE',
    path.optional(),
    'PEM authority; with it every client must show a certificate that this authority signed.',
  ),
};

const SERVE = {
  ...STORE,
  host: variable('INGEST_HOST', path.default('127.0.0.1'), 'Address to listen on.'),
  port: variable(
    'INGEST_PORT',
    integer.min(0).max(65_535).default(8080),
    'Port to listen on; 0 takes a free one.',
  ),
  databaseConnections: variable(
    'INGEST_DATABASE_CONNECTIONS',
    positive.max(1_000).default(10),
    'Connections that requests and sweeps share; two more are for the locks of uploads and for /readyz.',
  ),
  maxUploadBytes: variable(
    'INGEST_MAX_UPLOAD_BYTES',
    positive.default(64 * 1024 ** 3),
    'Largest file, in bytes as sent.',
  ),
  minFreeBytes: variable(
    'INGEST_MIN_FREE_BYTES',
    integer.min(0).default(1024 ** 3),
    'Bytes that stay free on the disk of INGEST_DATA_DIR after everything declared has arrived.',
  ),
  idleTimeoutMs: variable(
    'INGEST_IDLE_TIMEOUT_MS',
    positive.default(60_000),
    'A connection that brings no byte for this long is closed.',
  ),
  keepFilesMs: variable(
    'INGEST_KEEP_FILES_HOURS',
    hours(7 * 24),
    'The files of a run are kept for this long after its load.',
  ),
  expireUploadsMs: variable(
    'INGEST_EXPIRE_UPLOADS_HOURS',
    hours(7 * 24),
    'Runs that receive no bytes for this long are cancelled.',
  ),
};

const LOAD = {
  ...STORE,
  maintenanceWorkMem: variable(
    'INGEST_MAINTENANCE_WORK_MEM',
    postgresSize.default('128MB'),
    "PostgreSQL's maintenance_work_mem while the key is built.",
  ),
  pollIntervalMs: variable(
    'INGEST_POLL_INTERVAL_MS',
    positive.default(2_000),
    'An idle loader reads the queue this often, and whenever NOTIFY wakes it.',
  ),
  stallTimeoutMs: variable(
    'INGEST_STALL_TIMEOUT_MS',
    positive.default(120_000),
    'A load that does not progress for this long is ended and tried again.',
  ),
  retentionIntervalMs: variable(
    'INGEST_RETENTION_INTERVAL_MS',
    positive.default(60_000),
    'Rows past retention are dropped this often.',
  ),
};

export type Environment = Readonly<Record<string, string | undefined>>;
type Group = Readonly<Record<string, Variable>>;
type ValuesOf<G extends Group> = { readonly [Key in keyof G]: z.output<G[Key]['schema']> };

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string | undefined;
}

export type DatabaseConfig = ValuesOf<typeof DATABASE>;
export type StoreConfig = ValuesOf<typeof STORE>;
export type GuardConfig = ValuesOf<typeof GUARD> & {
  /** Undefined: plain HTTP. */
  readonly tls: TlsFiles | undefined;
};
export type ServeConfig = ValuesOf<typeof SERVE> & {
  readonly runLimits: RunLimits;
  readonly guard: GuardConfig;
};
export type LoadConfig = ValuesOf<typeof LOAD> & {
  readonly runLimits: RunLimits;
  /** Connections for what a load reports and asks beside its own transaction. */
  readonly sideConnections: number;
};

/** The variables that each command reads: for its `--help`, and for the test that compares .env.example. */
const VARIABLES = {
  serve: [SERVE, RUN_LIMITS, GUARD, TLS],
  load: [LOAD, RUN_LIMITS],
  store: [STORE],
  database: [DATABASE],
} as const satisfies Record<string, readonly Group[]>;

/** Every fault of a configuration, one line each. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** @throws {ConfigError} that names every fault. */
export function loadServeConfig(env: Environment): ServeConfig {
  return load(env, (read, addMissing) => ({
    ...read(SERVE),
    runLimits: read(RUN_LIMITS),
    guard: { ...read(GUARD), tls: tlsOf(read(TLS), addMissing) },
  }));
}

/** @throws {ConfigError} that names every fault. */
export function loadLoaderConfig(env: Environment): LoadConfig {
  return load(env, (read) => ({ ...read(LOAD), runLimits: read(RUN_LIMITS), sideConnections: 2 }));
}

/** @throws {ConfigError} that names every fault. */
export function loadStoreConfig(env: Environment): StoreConfig {
  return load(env, (read) => read(STORE));
}

/** @throws {ConfigError} that names every fault. */
export function loadDatabaseConfig(env: Environment): DatabaseConfig {
  return load(env, (read) => read(DATABASE));
}

/** @param config makes the configuration from what `read` returns; its result is used only when there is no fault. */
function load<Config>(
  env: Environment,
  config: (read: <G extends Group>(group: G) => ValuesOf<G>, addMissing: (name: string) => void) => Config,
): Config {
  const present = withSecretFiles(env);
  const faults: string[] = [];
  const addMissing = (name: string) => faults.push(`${name} is not set.`);
  const read = <G extends Group>(group: G): ValuesOf<G> => {
    const values: Record<string, unknown> = {};
    for (const [key, { name, schema }] of Object.entries(group)) {
      const text = present[name] === '' ? undefined : present[name];
      const result = schema.safeParse(text);
      if (result.success) values[key] = result.data;
      else if (text === undefined) addMissing(name);
      else
        for (const { message } of result.error.issues) faults.push(`${name}: ${message.replace(/\.$/, '')}.`);
    }
    return values as ValuesOf<G>;
  };
  const result = config(read, addMissing);
  if (faults.length === 0) return result;
  throw new ConfigError(
    `The environment does not configure the service:\n  ${faults.join('\n  ')}\nSee .env.example for every variable and its default.`,
  );
}

/** Half a TLS configuration would be plain HTTP, or TLS without the client certificates that an operator relies on. */
function tlsOf(
  { certFile, keyFile, clientCaFile }: ValuesOf<typeof TLS>,
  addMissing: (name: string) => void,
): TlsFiles | undefined {
  if (certFile !== undefined && keyFile !== undefined) return { certFile, keyFile, clientCaFile };
  if (certFile === undefined && (keyFile ?? clientCaFile) !== undefined) addMissing(TLS.certFile.name);
  if (keyFile === undefined && (certFile ?? clientCaFile) !== undefined) addMissing(TLS.keyFile.name);
  return undefined;
}

/** Secrets that must not be in an environment that others can read (`docker inspect`, /proc). */
const SECRETS = [DATABASE.databaseUrl.name];

/**
 * The environment with each secret NAME taken from the file that NAME_FILE names, as Docker and Kubernetes mount
 * them. White space around the secret, such as the last newline of an editor, is not part of it.
 *
 * @throws {ConfigError} when both are set, or the file cannot be read.
 */
function withSecretFiles(env: Environment): Environment {
  const secrets: Record<string, string> = {};
  for (const name of SECRETS) {
    const path = env[`${name}_FILE`];
    if (!path) continue;
    if (env[name]) throw new ConfigError(`${name} and ${name}_FILE are both set; remove one of them.`);
    try {
      secrets[name] = readFileSync(path, 'utf8').trim();
    } catch (error) {
      throw new ConfigError(
        `${name}_FILE cannot be read: ${(error as Error).message}. Mount the secret at that path.`,
      );
    }
  }
  return { ...env, ...secrets };
}

/** The lines of `--help` for the variables of a command. */
export function describeVariables(command: keyof typeof VARIABLES): string {
  const lines = VARIABLES[command].flatMap((group: Group) =>
    Object.values(group).map(({ name, schema, help }) => {
      const fallback = defaultOf(schema);
      return `  ${name}${fallback === undefined ? '' : ` (default ${fallback})`}\n      ${help}`;
    }),
  );
  return `\nEnvironment:\n${lines.join('\n')}`;
}

/** As it would be written in the environment; undefined when the variable has none. */
function defaultOf(schema: z.ZodType): string | undefined {
  const { default: fallback } = z.toJSONSchema(schema, { io: 'input' });
  return fallback === undefined ? undefined : String(fallback);
}
