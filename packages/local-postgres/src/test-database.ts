// Databases for tests, on a real PostgreSQL. `local-postgres/mocha-fixture` is this file: a root plugin of mocha (`require`
// in .mocharc.json) that starts one server for each process that runs tests, which is each worker of `mocha --parallel`. Roles,
// settings and the list of sessions belong to a server, so test files that run at the same time do not share one.
// TEST_DATABASE_URL is the address of its superuser; when that variable is set already, the tests use the server that it names.
import { randomBytes } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { type RunningPostgres, startPostgres } from './start-postgres.ts';

const GONE_WITHIN_MS = 3_000;
const POLL_MS = 20;
const START_WITHIN_MS = 60_000;
/** A worker runs the hooks once for each of its files, and keeps its server for the next one. */
const IS_WORKER = process.env.MOCHA_WORKER_ID !== undefined;

export interface TemplateRecipe {
  /** Databases of the same name are clones of one template, which is prepared once per mocha process. */
  name: string;
  migrate(url: string): Promise<void>;
}

export interface TestDatabase {
  /** As the superuser. */
  url: string;
  /** Drops the database, and rejects when connections were left open. */
  drop(): Promise<void>;
}

const templates = new Map<string, Promise<string>>();
let postgres: RunningPostgres | undefined;

export const mochaHooks = {
  async beforeAll(this: Mocha.Context): Promise<void> {
    if (process.env.TEST_DATABASE_URL) return;
    this.timeout(START_WITHIN_MS);
    postgres = await startPostgres({
      dataDir: await mkdtemp(join(tmpdir(), 'score-ingest-test-')),
      temporary: true,
      settings: {
        // The data is not needed after the run, so it need not reach the disk.
        fsync: 'off',
        synchronous_commit: 'off',
        full_page_writes: 'off',
        max_connections: '200',
        shared_buffers: '128MB',
      },
    });
    process.env.TEST_DATABASE_URL = postgres.superuserUrl;
  },

  async afterAll(this: Mocha.Context): Promise<void> {
    if (postgres === undefined) await dropTemplates();
    // The server of a worker ends with its process (`host.ts`).
    else if (!IS_WORKER) await postgres.stop();
  },
};

/** A new database on the server of TEST_DATABASE_URL: empty, or a clone of a migrated template. */
export async function createTestDatabase(recipe?: TemplateRecipe): Promise<TestDatabase> {
  const template = recipe === undefined ? 'template1' : await templateFor(recipe);
  const name = uniqueName('test');
  await asSuperuser((client) => client.query(`CREATE DATABASE ${name} TEMPLATE ${template}`));
  return { url: urlOf(name), drop: () => dropDatabase(name) };
}

async function dropTemplates(): Promise<void> {
  for (const template of templates.values()) await dropDatabase(await template);
  templates.clear();
}

function templateFor(recipe: TemplateRecipe): Promise<string> {
  const known = templates.get(recipe.name);
  if (known !== undefined) return known;
  const made = makeTemplate(recipe);
  templates.set(recipe.name, made);
  return made;
}

async function makeTemplate(recipe: TemplateRecipe): Promise<string> {
  // Unique, so that two mocha processes can share a server.
  const name = uniqueName('template');
  await asSuperuser((client) => client.query(`CREATE DATABASE ${name}`));
  await recipe.migrate(urlOf(name));
  // PostgreSQL does not clone a database that has connections.
  const left = await asSuperuser((client) => connectionsLeft(client, name));
  if (left.length > 0) throw leaked(`Preparing the template "${recipe.name}"`, left);
  return name;
}

async function dropDatabase(name: string): Promise<void> {
  const left = await asSuperuser(async (client) => {
    const open = await connectionsLeft(client, name);
    await client.query(`DROP DATABASE ${name} WITH (FORCE)`);
    return open;
  });
  if (left.length > 0) throw leaked(`The test that used database ${name}`, left);
}

interface Connection {
  pid: number;
  application_name: string;
  query: string;
}

/** The connections that are still open. Waits for a moment, because a backend ends shortly after its client. */
async function connectionsLeft(client: pg.Client, database: string): Promise<Connection[]> {
  const deadlineMs = Date.now() + GONE_WITHIN_MS;
  for (;;) {
    const { rows } = await client.query<Connection>(
      `SELECT pid, application_name, query FROM pg_stat_activity
       WHERE datname = $1 AND backend_type = 'client backend'`,
      [database],
    );
    if (rows.length === 0 || Date.now() > deadlineMs) return rows;
    await delay(POLL_MS);
  }
}

function leaked(who: string, left: Connection[]): Error {
  const list = left.map((c) => `  pid ${c.pid}, application "${c.application_name}", last query: ${c.query}`);
  return new Error(
    `${who} left ${left.length} connection(s) open; end every pool and client first:\n${list.join('\n')}`,
  );
}

async function asSuperuser<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: superuserUrl(), application_name: 'test-database' });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function superuserUrl(): string {
  const url = process.env.TEST_DATABASE_URL;
  if (!url) {
    throw new Error(
      'TEST_DATABASE_URL is not set. Run mocha from the root of the checkout, whose .mocharc.json ' +
        'requires local-postgres/mocha-fixture, or set it to the address of a superuser.',
    );
  }
  return url;
}

function urlOf(database: string): string {
  const url = new URL(superuserUrl());
  url.pathname = `/${database}`;
  return url.href;
}

function uniqueName(kind: string): string {
  return `${kind}_${process.pid}_${randomBytes(5).toString('hex')}`;
}
