import { parseDatabaseUrl } from 'db-schema';
import { z } from 'zod';
import { checkTls, GUARD_VARIABLES, type GuardConfig, toGuardConfig } from './guard-config.ts';
import type { RunLimits } from './runs/contract.ts';

const HOUR_MS = 60 * 60 * 1000;

const port = z.coerce.number().int().min(0).max(65_535);
const bytes = z.coerce.number().int().positive();
const hours = z.coerce.number().positive().max(100_000);
/** The whole address is read at the start: a fault of it must not show as a database that is out of reach. */
const databaseUrl = z.string().superRefine((text, context) => {
  try {
    parseDatabaseUrl(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
  }
});

/** The limits of a run; its model's contract may set others. */
const RUN_LIMITS = {
  INGEST_MAX_RUN_BYTES: bytes.default(32 * 1024 ** 3),
  INGEST_MAX_RUN_ROWS: bytes.default(1_000_000_000),
};

const COMMON = {
  DATABASE_URL: databaseUrl,
  INGEST_LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
};

const SERVE = z
  .object({
    ...COMMON,
    ...GUARD_VARIABLES,
    ...RUN_LIMITS,
    INGEST_DATA_DIR: z.string().min(1),
    INGEST_HOST: z.string().min(1).default('127.0.0.1'),
    INGEST_PORT: port.default(8080),
    INGEST_DATABASE_CONNECTIONS: z.coerce.number().int().positive().max(1_000).default(10),
    INGEST_MAX_UPLOAD_BYTES: bytes.default(64 * 1024 ** 3),
    INGEST_MIN_FREE_BYTES: z.coerce
      .number()
      .int()
      .min(0)
      .default(1024 ** 3),
    INGEST_IDLE_TIMEOUT_MS: z.coerce.number().int().positive().default(60_000),
    INGEST_KEEP_FILES_HOURS: hours.default(7 * 24),
    INGEST_EXPIRE_UPLOADS_HOURS: hours.default(7 * 24),
  })
  .superRefine((it, context) => {
    checkTls(it, (name, message) => context.addIssue({ code: 'custom', path: [name], message }));
  });

const LOAD = z.object({
  ...COMMON,
  ...RUN_LIMITS,
  INGEST_DATA_DIR: z.string().min(1),
  INGEST_MAINTENANCE_WORK_MEM: z
    .string()
    .regex(/^\d+(kB|MB|GB)$/, 'must be a PostgreSQL size such as 128MB')
    .default('128MB'),
  INGEST_POLL_INTERVAL_MS: z.coerce.number().int().positive().default(2_000),
  INGEST_STALL_TIMEOUT_MS: z.coerce.number().int().positive().default(120_000),
  INGEST_RETENTION_INTERVAL_MS: z.coerce.number().int().positive().default(60_000),
});

const DATABASE_ONLY = z.object(COMMON);

const STORE = z.object({ ...COMMON, INGEST_DATA_DIR: z.string().min(1) });

export interface DatabaseConfig {
  readonly databaseUrl: string;
  readonly logLevel: string;
}

export interface ServeConfig extends DatabaseConfig {
  /** Where the bytes of uploads lie; the loader must see the same folder. */
  readonly dataDir: string;
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Connections that requests and sweeps share; two more are for the locks of uploads and for `/readyz`. */
  readonly databaseConnections: number;
  /** The largest file that is taken. */
  readonly maxUploadBytes: number;
  /** What must stay free on the disk of `dataDir` after everything that is declared has arrived. */
  readonly minFreeBytes: number;
  /** How long the files of a run stay after its load. */
  readonly keepFilesMs: number;
  /** A run of which no byte arrives for so long is given up. */
  readonly expireUploadsMs: number;
  /** A connection that brings no byte for so long is closed. */
  readonly idleTimeoutMs: number;
  readonly runLimits: RunLimits;
  readonly guard: GuardConfig;
}

export interface LoadConfig extends DatabaseConfig {
  readonly dataDir: string;
  /** PostgreSQL's `maintenance_work_mem` while the key is built. */
  readonly maintenanceWorkMem: string;
  /** How often an idle loader looks at the queue, besides being woken by NOTIFY. */
  readonly pollIntervalMs: number;
  /** A COPY that takes no byte for so long is given up and tried again. */
  readonly stallTimeoutMs: number;
  readonly runLimits: RunLimits;
  /** Connections for what a load reports and asks beside its transaction. */
  readonly sideConnections: number;
  /** How often rows past retention are dropped. */
  readonly retentionIntervalMs: number;
}

/** All faults of a configuration at once, one line each. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

type Environment = Readonly<Record<string, string | undefined>>;

function parse<T>(schema: z.ZodType<T>, env: Environment): T {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const result = schema.safeParse(present);
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => {
    const name = String(issue.path[0]);
    const given = present[name];
    return given === undefined ? `${name} is not set.` : `${name}: ${issue.message.replace(/\.$/, '')}.`;
  });
  throw new ConfigError(
    `The environment does not configure the service:\n  ${lines.join('\n  ')}\nSee .env.example for every variable and its default.`,
  );
}

/** @throws {ConfigError} naming every fault. */
export function loadServeConfig(env: Environment): ServeConfig {
  const it = parse(SERVE, env);
  return {
    databaseUrl: it.DATABASE_URL,
    logLevel: it.INGEST_LOG_LEVEL,
    dataDir: it.INGEST_DATA_DIR,
    host: it.INGEST_HOST,
    port: it.INGEST_PORT,
    databaseConnections: it.INGEST_DATABASE_CONNECTIONS,
    maxUploadBytes: it.INGEST_MAX_UPLOAD_BYTES,
    minFreeBytes: it.INGEST_MIN_FREE_BYTES,
    idleTimeoutMs: it.INGEST_IDLE_TIMEOUT_MS,
    keepFilesMs: it.INGEST_KEEP_FILES_HOURS * HOUR_MS,
    expireUploadsMs: it.INGEST_EXPIRE_UPLOADS_HOURS * HOUR_MS,
    runLimits: { maxBytes: it.INGEST_MAX_RUN_BYTES, maxRows: it.INGEST_MAX_RUN_ROWS },
    guard: toGuardConfig(it),
  };
}

/** @throws {ConfigError} naming every fault. */
export function loadLoaderConfig(env: Environment): LoadConfig {
  const it = parse(LOAD, env);
  return {
    databaseUrl: it.DATABASE_URL,
    logLevel: it.INGEST_LOG_LEVEL,
    dataDir: it.INGEST_DATA_DIR,
    maintenanceWorkMem: it.INGEST_MAINTENANCE_WORK_MEM,
    pollIntervalMs: it.INGEST_POLL_INTERVAL_MS,
    stallTimeoutMs: it.INGEST_STALL_TIMEOUT_MS,
    retentionIntervalMs: it.INGEST_RETENTION_INTERVAL_MS,
    runLimits: { maxBytes: it.INGEST_MAX_RUN_BYTES, maxRows: it.INGEST_MAX_RUN_ROWS },
    sideConnections: 2,
  };
}

/** @throws {ConfigError} naming every fault. */
export function loadDatabaseConfig(env: Environment): DatabaseConfig {
  const it = parse(DATABASE_ONLY, env);
  return { databaseUrl: it.DATABASE_URL, logLevel: it.INGEST_LOG_LEVEL };
}

/** @throws {ConfigError} naming every fault. */
export function loadStoreConfig(env: Environment): DatabaseConfig & { readonly dataDir: string } {
  const it = parse(STORE, env);
  return { databaseUrl: it.DATABASE_URL, logLevel: it.INGEST_LOG_LEVEL, dataDir: it.INGEST_DATA_DIR };
}
