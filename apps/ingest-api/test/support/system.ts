import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrateToLatest, openDatabase } from 'db-schema';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import { testS3 } from 'local-s3';
import pg from 'pg';
import { pino } from 'pino';
import { load } from '../../src/commands/load.ts';
import { serve } from '../../src/commands/serve.ts';
import { type LoadConfig, loadServeConfig, type ServeConfig } from '../../src/config.ts';
import { createToken, type NewToken } from '../../src/runs/tokens.ts';

import { requireDocumented } from './documented-problems.ts';

// Most tests want all three.
export * from './eventually.ts';
export * from './runs.ts';

/** A service on a database of its own, and as many loaders as a test wants. */
export interface TestSystem {
  readonly url: string;
  readonly databaseUrl: string;
  /** The folder of the uploads, unless the store is a bucket. */
  readonly dataDir: string;
  /** Covers every model, with the scopes push and read. */
  readonly token: string;
  createToken(token: Partial<NewToken> & { name: string }): Promise<string>;
  request(method: string, path: string, options?: RequestOptions): Promise<Response>;
  startLoader(config?: Partial<LoadConfig>): { stop(): Promise<void> };
  restartService(): Promise<void>;
  stopService(): Promise<void>;
  /** After `stopService`, with other settings. */
  startService(config?: Partial<ServeConfig>): Promise<void>;
  query<T extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<T[]>;
  stop(): Promise<void>;
}

/** The path of a new upload: `Location` is relative to the address of the request, as it is below a proxy's path prefix. */
export function createdPath(answer: Response): string {
  return new URL(answer.headers.get('location') ?? '', answer.url).pathname;
}

export interface RequestOptions {
  readonly json?: unknown;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly headers?: Record<string, string>;
  /** null sends none. */
  readonly token?: string | null;
}

export async function startSystem(
  given: Partial<ServeConfig> | ((databaseUrl: string) => Promise<Partial<ServeConfig>>) = {},
  /** Migrated; by default a new one. */
  ownDatabase?: TestDatabase,
): Promise<TestSystem> {
  const database =
    ownDatabase ??
    (await createTestDatabase({
      name: 'migrated',
      migrate: async (url) => void (await migrateToLatest(url)),
    }));
  const dataDir = await mkdtemp(path.join(tmpdir(), 'ingest-test-'));
  const config = typeof given === 'function' ? await given(database.url) : given;
  // `TEST_STORE=s3` runs any test on a bucket, except those that look into the folder.
  const s3 = process.env.TEST_STORE === 's3' ? await testS3() : undefined;
  const store = config.store ?? s3?.newLocation() ?? ({ kind: 'folder', path: dataDir } as const);
  const common = { databaseUrl: database.url, store, logLevel: 'silent' as const };
  const stops: (() => Promise<void>)[] = [];
  let service = await startService({ ...DEFAULTS, ...common, ...config });
  const pool = new pg.Pool({ connectionString: database.url, max: 4, application_name: 'test' });
  const system: TestSystem = {
    get url() {
      return service.url;
    },
    databaseUrl: database.url,
    dataDir,
    token: '',
    async createToken(token) {
      const { db } = openDatabase({
        databaseUrl: database.url,
        role: 'ingest_api',
        applicationName: 'test',
        maxConnections: 1,
        onIdleError: () => {},
      });
      try {
        return await createToken(
          db,
          { scopes: ['push', 'read'], models: null, expiresAt: null, ...token },
          'test',
        );
      } finally {
        await db.destroy();
      }
    },
    async request(method, requestPath, options = {}) {
      const token = options.token === undefined ? this.token : options.token;
      const answer = await fetch(new URL(requestPath, service.url), {
        method,
        headers: {
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
          ...(options.json === undefined ? {} : { 'content-type': 'application/json' }),
          ...options.headers,
        },
        ...(options.json === undefined ? {} : { body: JSON.stringify(options.json) }),
        ...(options.body === undefined ? {} : { body: options.body }),
      });
      return requireDocumented(method, answer);
    },
    startLoader(loadConfig = {}) {
      const controller = new AbortController();
      const running = load(
        {
          ...common,
          maintenanceWorkMem: '64MB',
          pollIntervalMs: 200,
          stallTimeoutMs: 20_000,
          retentionIntervalMs: 3_600_000,
          retentionWaitMs: 0,
          sideConnections: 1,
          runLimits: RUN_LIMITS,
          ...loadConfig,
        },
        pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' }),
        controller.signal,
      );
      const stop = async () => {
        controller.abort();
        await running;
      };
      stops.push(stop);
      return { stop };
    },
    async restartService() {
      await this.stopService();
      await this.startService();
    },
    stopService: () => service.stop(),
    async startService(changed = {}) {
      service = await startService({ ...DEFAULTS, ...common, ...config, ...changed });
    },
    async query(sql, values) {
      return (await pool.query(sql, values)).rows;
    },
    async stop() {
      for (const stop of stops) await stop();
      await service.stop();
      await pool.end();
      await rm(dataDir, { recursive: true, force: true });
      await database.drop();
    },
  };
  return {
    ...system,
    token: await system.createToken({ name: 'tester' }),
    get url() {
      return service.url;
    },
  };
}

/** The file of an upload in the folder: a small one that came at once has a name of its own behind the id. */
export function storedFile({ dataDir }: TestSystem, uploadUrl: string | undefined): string {
  const id = path.basename(uploadUrl ?? 'no such file');
  return path.join(dataDir, readdirSync(dataDir).find((name) => name.startsWith(id)) ?? id);
}

const RUN_LIMITS = { maxRows: 10_000_000, maxBytes: 1024 ** 3 };

const DEFAULTS = {
  host: '127.0.0.1',
  port: 0,
  databaseConnections: 1, // whatever asks for a second one while it holds the first hangs, in every test
  maxUploadBytes: 1024 ** 3,
  runLimits: RUN_LIMITS,
  minFreeBytes: 0,
  idleTimeoutMs: 60_000,
  keepFilesMs: 24 * 60 * 60 * 1000,
  expireUploadsMs: 24 * 60 * 60 * 1000,
  keepHistoryMs: undefined,
  guard: loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' }).guard,
} as const;

async function startService(config: ServeConfig): Promise<{ url: string; stop(): Promise<void> }> {
  const controller = new AbortController();
  let announce: (port: number) => void = () => {};
  const listening = new Promise<number>((resolve) => {
    announce = resolve;
  });
  const log = pino(
    { level: 'info' },
    {
      write(line: string) {
        const entry = JSON.parse(line) as { msg: string; port?: number };
        if (entry.msg === 'listening' && entry.port !== undefined) announce(entry.port);
        if (process.env.TEST_LOG_LEVEL !== undefined) process.stderr.write(line);
      },
    },
  );
  const running = serve(config, log, controller.signal);
  const port = await Promise.race([
    listening,
    running.then(() => Promise.reject(new Error('the service ended'))),
  ]);
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      controller.abort();
      await running;
    },
  };
}
