import { readFileSync } from 'node:fs';
import { parseDatabaseUrl } from 'db-schema';
import { certificatesFault, keyPairFault } from 'wire';
import { z } from 'zod';
import { UsageError } from './errors.ts';
import type { RunLimits } from './runs/models.ts';
import { type BucketLocation, parseStoreAddress, type StoreAddress } from './store/open.ts';

/** One variable of the environment: its name, the rule and default of its value, and its text in `--help`. */
interface Variable<Schema extends z.ZodType = z.ZodType> {
  readonly name: string;
  readonly schema: Schema;
  readonly help: string;
}

function variable<Schema extends z.ZodType>(name: string, schema: Schema, help: string): Variable<Schema> {
  return { name, schema, help };
}

const HOUR_MS = 60 * 60 * 1000;

const whole = (least: number, most = Number.MAX_SAFE_INTEGER) =>
  z
    .string()
    .regex(/^-?\d+$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(least).max(most));
const positive = whole(1);
/** A day. A timer of Node that is longer than 24 days fires at once. */
const milliseconds = whole(1, 24 * HOUR_MS);
const hours = (least: number) =>
  z
    .string()
    .regex(/^-?\d+(\.\d+)?$/, 'must be a number of hours, such as 168 or 0.5')
    .transform(Number)
    .pipe(z.number().min(least).max(100_000))
    .transform((value) => value * HOUR_MS);
/** Less than a second. */
const LEAST_HOURS = 0.0001;
const path = z.string().min(1);
const DAY_MS = 24 * HOUR_MS;
/** 1 to 99,999 days. */
const DAYS = /^[1-9]\d{0,4}d?$/;
const history = z
  .string()
  .refine((text) => text === 'forever' || DAYS.test(text), {
    message: `must be forever, or a number of days from 1d to 99999d`,
  })
  .default('forever')
  .transform((text) => (text === 'forever' ? undefined : Number.parseInt(text, 10) * DAY_MS));
const postgresSize = z.string().regex(/^\d+(kB|MB|GB)$/, 'must be a PostgreSQL size such as 128MB');
/** Checked at the start, so that a wrong address does not look like a database that cannot be reached. */
const databaseUrl = z.string().superRefine((text, context) => {
  try {
    parseDatabaseUrl(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
  }
});
const storeAddress = z.string().transform((text, context): StoreAddress => {
  const address = parseStoreAddress(text);
  if (address !== undefined) return address;
  context.addIssue({
    code: 'custom',
    message: 'must be a path, file:///path or s3://bucket/prefix',
  });
  return z.NEVER;
});
/** The text of the file, which is read and checked at the start: otherwise each connection would fail later. */
const pemFile = (faultOf: (pem: string) => string | null) =>
  path.transform((file, context): string => {
    try {
      const pem = readFileSync(file, 'utf8');
      const fault = faultOf(pem);
      if (fault === null) return pem;
      context.addIssue({ code: 'custom', message: fault });
    } catch (error) {
      context.addIssue({ code: 'custom', message: `cannot be read: ${(error as Error).message}` });
    }
    return z.NEVER;
  });
const certificates = pemFile(certificatesFault);
const addressList = z
  .string()
  .default('')
  .transform((text) => text.split(',').flatMap((part) => part.trim() || []))
  .pipe(z.array(z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], 'must be addresses or CIDR blocks')));

const DATABASE = {
  databaseUrl: variable(
    'DATABASE_URL',
    databaseUrl,
    'postgres:// address; its login is a member of ingest_api (serve) or ingest_loader (load). Or set DATABASE_URL_FILE: a file with the address.',
  ),
  logLevel: variable(
    'INGEST_LOG_LEVEL',
    z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    'Lowest level that is logged.',
  ),
};

const STORE = {
  store: variable(
    'INGEST_STORE',
    storeAddress.optional(),
    'Where the bytes of uploads are kept, the same for every service and loader: a folder (/var/lib/score-ingest) or a bucket (s3://bucket/prefix).',
  ),
  dataDir: variable('INGEST_DATA_DIR', path.optional(), 'A folder, instead of INGEST_STORE.'),
  s3Endpoint: variable(
    'INGEST_S3_ENDPOINT',
    z.url({ protocol: /^https?$/ }).optional(),
    'Address of an S3-compatible server. Credentials come from the usual AWS variables, files and roles.',
  ),
  s3Region: variable('INGEST_S3_REGION', z.string().default('us-east-1'), 'Region of the bucket.'),
  s3PathStyle: variable(
    'INGEST_S3_PATH_STYLE',
    z.stringbool().optional(),
    'true: the bucket is in the path of each request, not in its host name; the default is true with INGEST_S3_ENDPOINT.',
  ),
  s3Ca: variable(
    'INGEST_S3_CA_FILE',
    certificates.optional(),
    'PEM certificates of the authorities that the server of the bucket is trusted by.',
  ),
};

/** The contract of a model may set other limits for its runs. */
const RUN_LIMITS = {
  maxBytes: variable(
    'INGEST_MAX_RUN_BYTES',
    positive.default(32 * 1024 ** 3),
    'Largest run, in bytes of its decompressed lines, unless the contract of its model sets maxBytes.',
  ),
  maxRows: variable(
    'INGEST_MAX_RUN_ROWS',
    positive.default(1_000_000_000),
    'Largest number of rows of a run, unless the contract of its model sets maxRows.',
  ),
};

/** Limits for hostile or broken clients. */
const GUARD = {
  ratePerMinute: variable(
    'INGEST_RATE_PER_MINUTE',
    positive.default(30_000),
    'Requests per minute of one token; more get 429.',
  ),
  failedLoginsPerMinute: variable(
    'INGEST_FAILED_LOGINS_PER_MINUTE',
    positive.default(300),
    'Requests per minute without a valid token from one address; more get 429.',
  ),
  maxConnections: variable(
    'INGEST_MAX_CONNECTIONS',
    positive.default(1_000),
    'Open client connections; one more closes an old one, first those without a valid token. A quarter may be requests of one token.',
  ),
  minBytesPerSecond: variable(
    'INGEST_MIN_BYTES_PER_SECOND',
    whole(0).default(1_024),
    'A request whose body is slower than this during INGEST_IDLE_TIMEOUT_MS is closed; 0 allows any rate.',
  ),
  maxDailyFiles: variable(
    'INGEST_MAX_DAILY_FILES',
    positive.default(5_000_000),
    'Files that one token may declare within 24 hours; a run counts as 100 at least; more get 507.',
  ),
  maxOpenUploads: variable(
    'INGEST_MAX_OPEN_UPLOADS',
    positive.default(250_000),
    'Unfinished uploads of one token; more get 507.',
  ),
  maxTokenBytes: variable(
    'INGEST_MAX_TOKEN_BYTES',
    positive.default(1024 ** 4),
    'Bytes of one token on the disk, or declared and not yet sent; more get 507.',
  ),
  trustedProxies: variable(
    'INGEST_TRUSTED_PROXIES',
    addressList,
    'Addresses or CIDR blocks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, separated by commas.',
  ),
};

const TLS = {
  cert: variable(
    'INGEST_TLS_CERT_FILE',
    certificates.optional(),
    'PEM certificate with its chain; with it the service uses HTTPS.',
  ),
  key: variable('INGEST_TLS_KEY_FILE', pemFile(() => null).optional(), 'PEM key of the certificate.'),
  clientCa: variable(
    'INGEST_TLS_CLIENT_CA_FILE',
    certificates.optional(),
    'PEM certificate of an authority; with it every client needs a certificate that this authority signed.',
  ),
};

const SERVE = {
  ...DATABASE,
  host: variable('INGEST_HOST', path.default('127.0.0.1'), 'Address to listen on.'),
  port: variable('INGEST_PORT', whole(0, 65_535).default(8080), 'Port to listen on; 0 chooses a free one.'),
  databaseConnections: variable(
    'INGEST_DATABASE_CONNECTIONS',
    whole(1, 1_000).default(10),
    'Database connections for requests and sweeps; two more are for the locks of uploads and for /readyz.',
  ),
  maxUploadBytes: variable(
    'INGEST_MAX_UPLOAD_BYTES',
    positive.default(64 * 1024 ** 3),
    'Largest file, in bytes as sent.',
  ),
  minFreeBytes: variable(
    'INGEST_MIN_FREE_BYTES',
    whole(0).default(1024 ** 3),
    'Bytes that stay free on the disk of the folder when everything that was declared has arrived.',
  ),
  idleTimeoutMs: variable(
    'INGEST_IDLE_TIMEOUT_MS',
    milliseconds.default(60_000),
    'A connection that receives and sends no bytes for this long is closed.',
  ),
  keepFilesMs: variable(
    'INGEST_KEEP_FILES_HOURS',
    hours(LEAST_HOURS).prefault('168'),
    'Files are kept for this long after the last load of a run that uses them.',
  ),
  expireUploadsMs: variable(
    'INGEST_EXPIRE_UPLOADS_HOURS',
    hours(LEAST_HOURS).prefault('168'),
    'Runs that receive no bytes for this long are cancelled.',
  ),
  keepHistoryMs: variable(
    'INGEST_KEEP_HISTORY',
    history,
    'What is known of runs that have ended is deleted after this many days (730d), except of those whose rows are kept.',
  ),
};

const LOAD = {
  ...DATABASE,
  maintenanceWorkMem: variable(
    'INGEST_MAINTENANCE_WORK_MEM',
    postgresSize.default('128MB'),
    "PostgreSQL's maintenance_work_mem while the key is built.",
  ),
  pollIntervalMs: variable(
    'INGEST_POLL_INTERVAL_MS',
    milliseconds.default(2_000),
    'An idle loader reads the queue this often; NOTIFY wakes it earlier.',
  ),
  stallTimeoutMs: variable(
    'INGEST_STALL_TIMEOUT_MS',
    milliseconds.default(120_000),
    'A load without progress for this long is ended and tried again.',
  ),
  retentionIntervalMs: variable(
    'INGEST_RETENTION_INTERVAL_MS',
    milliseconds.default(60_000),
    'Loaders drop rows past retention this often.',
  ),
  retentionWaitMs: variable(
    'INGEST_RETENTION_WAIT_HOURS',
    hours(0).prefault('0'),
    'Tables that readers see no more are hidden this long before they are detached or dropped, for queries on standbys.',
  ),
};

export type Environment = Readonly<Record<string, string | undefined>>;
type Group = Readonly<Record<string, Variable>>;
type ValuesOf<G extends Group> = { readonly [Key in keyof G]: z.output<G[Key]['schema']> };

/** PEM texts. */
export interface TlsIdentity {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string | undefined;
}

export type DatabaseConfig = ValuesOf<typeof DATABASE>;
export type StoreConfig = DatabaseConfig & { readonly store: StoreLocation };
export type StoreLocation = Extract<StoreAddress, { kind: 'folder' }> | BucketLocation;
export type GuardConfig = ValuesOf<typeof GUARD> & {
  /** Undefined: plain HTTP. */
  readonly tls: TlsIdentity | undefined;
};
export type ServeConfig = ValuesOf<typeof SERVE> & {
  readonly store: StoreLocation;
  readonly runLimits: RunLimits;
  readonly guard: GuardConfig;
};
export type LoadConfig = ValuesOf<typeof LOAD> & {
  readonly store: StoreLocation;
  readonly runLimits: RunLimits;
  /** Connections for what a load reads and writes outside of its own transaction. */
  readonly sideConnections: number;
};

/**
 * The variables that each command reads: for its `--help`, and for the test that compares them with
 * .env.example.
 */
export const VARIABLES = {
  serve: [SERVE, STORE, RUN_LIMITS, GUARD, TLS],
  load: [LOAD, STORE, RUN_LIMITS],
  store: [DATABASE, STORE],
  database: [DATABASE],
} as const satisfies Record<string, readonly Group[]>;

/** Its message has one line for each fault. */
export class ConfigError extends UsageError {
  override readonly name = 'ConfigError';
}

/** @throws {ConfigError} that names every fault. */
export function loadServeConfig(env: Environment): ServeConfig {
  return load(env, (read, faults) => ({
    ...read(SERVE),
    store: storeOf(read(STORE), faults),
    runLimits: read(RUN_LIMITS),
    guard: { ...read(GUARD), tls: tlsOf(read(TLS), faults) },
  }));
}

/** @throws {ConfigError} that names every fault. */
export function loadLoaderConfig(env: Environment): LoadConfig {
  return load(env, (read, faults) => ({
    ...read(LOAD),
    store: storeOf(read(STORE), faults),
    runLimits: read(RUN_LIMITS),
    sideConnections: 2,
  }));
}

/** @throws {ConfigError} that names every fault. */
export function loadStoreConfig(env: Environment): StoreConfig {
  return load(env, (read, faults) => ({ ...read(DATABASE), store: storeOf(read(STORE), faults) }));
}

/**
 * @param to the address of the other store, from the command line. A bucket is reached with the same INGEST_S3 variables.
 * @throws {ConfigError} that names every fault.
 */
export function loadMoveConfig(env: Environment, to: string): StoreConfig & { readonly to: StoreLocation } {
  return load(env, (read, faults) => {
    const values = read(STORE);
    const from = storeOf(values, faults);
    const address = parseStoreAddress(to);
    if (address === undefined)
      faults.add(`--to must be a path, file:///path or s3://bucket/prefix (found ${JSON.stringify(to)}).`);
    if (address?.kind === 's3' && from.kind === 's3')
      faults.add(
        '--to and INGEST_STORE are both buckets. Copy the objects with a tool of the provider (their keys below the prefix must stay as they are), then run: ingest-api store adopt --reason TEXT.',
      );
    return {
      ...read(DATABASE),
      store: from,
      to: address === undefined ? from : locationOf(address, values), // the result counts only without a fault
    };
  });
}

/** @throws {ConfigError} that names every fault. */
export function loadDatabaseConfig(env: Environment): DatabaseConfig {
  return load(env, (read) => read(DATABASE));
}

interface Faults {
  add(fault: string): void;
  isSet(name: string): boolean;
  /** Says that a variable is not set, unless it is: then what is wrong with its value has been said. */
  addMissing(name: string): void;
}

/**
 * @param config makes the configuration from what `read` returns. Its result is used only when there is no
 *   fault.
 */
function load<Config>(
  env: Environment,
  config: (read: <G extends Group>(group: G) => ValuesOf<G>, faults: Faults) => Config,
): Config {
  const faults: string[] = [];
  const add = (fault: string) => faults.push(fault);
  const isSet = (name: string) => textOf(env, name).text !== undefined;
  const addMissing = (name: string) => {
    if (!isSet(name)) add(`${name} is not set.`);
  };
  const read = <G extends Group>(group: G): ValuesOf<G> => {
    const values: Record<string, unknown> = {};
    for (const [key, { name, schema }] of Object.entries(group)) {
      const { text, fault } = textOf(env, name);
      const result = schema.safeParse(text);
      if (fault !== undefined) add(fault);
      else if (result.success) values[key] = result.data;
      else if (text === undefined) addMissing(name);
      else for (const issue of result.error.issues) add(`${name}: ${faultOf(issue, name, text)}.`);
    }
    return values as ValuesOf<G>;
  };
  const result = config(read, { add, isSet, addMissing });
  if (faults.length === 0) return result;
  throw new ConfigError(
    `The environment is not a valid configuration:\n  ${faults.join('\n  ')}\nSee .env.example for every variable and its default.`,
  );
}

/**
 * These should not be in an environment that others can read (`docker inspect`, /proc): NAME_FILE names a
 * file instead.
 */
export const SECRETS: readonly string[] = [DATABASE.databaseUrl.name];

/**
 * The text of a variable; an empty variable is not set. A secret may also be in the file that NAME_FILE
 * names, as Docker and Kubernetes mount it. White space around it, such as the last newline of an editor, is
 * removed.
 */
function textOf(env: Environment, name: string): { readonly text?: string; readonly fault?: string } {
  const text = env[name] || undefined;
  const path = SECRETS.includes(name) ? env[`${name}_FILE`] || undefined : undefined;
  if (path === undefined) return text === undefined ? {} : { text };
  if (text !== undefined) return { fault: `${name} and ${name}_FILE are both set; remove one of them.` };
  try {
    return { text: readFileSync(path, 'utf8').trim() };
  } catch (error) {
    return {
      fault: `${name}_FILE cannot be read: ${(error as Error).message}. Mount the secret at that path.`,
    };
  }
}

/** The rule that a value breaks, and the value, unless it is a secret: `must be a number (found "zz")`. */
function faultOf(issue: z.core.$ZodIssue, name: string, text: string): string {
  return SECRETS.includes(name) ? ruleOf(issue) : `${ruleOf(issue)} (found ${JSON.stringify(text)})`;
}

function ruleOf(issue: z.core.$ZodIssue): string {
  if (issue.code === 'too_small')
    return `must be ${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}`;
  if (issue.code === 'too_big') return `must be at most ${issue.maximum}`;
  if (issue.code === 'invalid_value') return `must be one of ${issue.values.join(', ')}`;
  if (issue.code === 'invalid_type')
    return `must be a ${issue.expected === 'int' ? 'whole number' : issue.expected}`;
  return issue.message.replace(/\.$/, '');
}

/** One of the two variables says where the store is. The result is used only when there is no fault. */
function storeOf(values: ValuesOf<typeof STORE>, faults: Faults): StoreLocation {
  const { store, dataDir } = values;
  if (store !== undefined && dataDir !== undefined)
    faults.add(`${STORE.store.name} and ${STORE.dataDir.name} are both set; remove one of them.`);
  if (store === undefined && dataDir === undefined) faults.addMissing(STORE.store.name);
  return locationOf(store ?? { kind: 'folder', path: dataDir ?? '' }, values);
}

function locationOf(
  address: StoreAddress,
  { s3Endpoint, s3Region, s3PathStyle, s3Ca }: ValuesOf<typeof STORE>,
): StoreLocation {
  if (address.kind === 'folder') return address;
  return {
    ...address,
    endpoint: s3Endpoint,
    region: s3Region,
    forcePathStyle: s3PathStyle ?? s3Endpoint !== undefined,
    ca: s3Ca,
  };
}

/**
 * All of it or nothing: half a TLS configuration would mean plain HTTP, which the operator does not expect.
 */
function tlsOf({ cert, key, clientCa }: ValuesOf<typeof TLS>, faults: Faults): TlsIdentity | undefined {
  if (Object.values(TLS).some(({ name }) => faults.isSet(name)))
    for (const { name } of [TLS.cert, TLS.key]) faults.addMissing(name);
  if (cert === undefined || key === undefined) return undefined;
  const fault = keyPairFault(cert, key);
  if (fault !== null) faults.add(`${TLS.cert.name} and ${TLS.key.name} ${fault}.`);
  return { cert, key, clientCa };
}

/** The section of `--help` with the variables of a command. */
export function describeVariables(command: keyof typeof VARIABLES): string {
  const lines = VARIABLES[command].flatMap((group: Group) =>
    Object.values(group).map(({ name, schema, help }) => {
      const fallback = defaultOf(schema);
      return `  ${name}${fallback === undefined ? '' : ` (default ${fallback})`}\n      ${help}`;
    }),
  );
  return `\nEnvironment:\n${lines.join('\n')}`;
}

/** The default as it would be written in the environment; undefined when there is none. */
export function defaultOf(schema: z.ZodType): string | undefined {
  const { default: fallback } = z.toJSONSchema(schema, { io: 'input' });
  return fallback === undefined || fallback === '' ? undefined : String(fallback);
}
