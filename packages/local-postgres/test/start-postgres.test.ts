import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import pg from 'pg';
import { startPostgres } from '../src/index.ts';

const settings = { fsync: 'off', shared_buffers: '16MB' };

describe('startPostgres', () => {
  let dir: string;

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'local-postgres-test-'));
  });

  afterEach(() => rm(dir, { recursive: true, force: true }));

  it('runs PostgreSQL 18 for whoever calls, in a folder that is closed to every other user', async () => {
    await chmod(dir, 0o700);
    const postgres = await startPostgres({ dataDir: join(dir, 'a', 'b'), settings });
    try {
      const answer = await query(
        postgres.superuserUrl,
        `SELECT current_setting('server_version_num')::int / 10000 AS major,
                current_setting('server_encoding') AS encoding,
                current_setting('shared_buffers') AS buffers,
                (SELECT datcollate FROM pg_database WHERE datname = 'template1') AS collate`,
      );
      expect(answer).to.deep.equal([{ major: 18, encoding: 'UTF8', buffers: '16MB', collate: 'C' }]);
    } finally {
      await postgres.stop();
    }
  });

  it('keeps the data and the password over a stop, and refuses any other password', async () => {
    const first = await startPostgres({ dataDir: dir, settings });
    await query(first.superuserUrl, 'CREATE TABLE kept AS SELECT 42 AS n');
    await first.stop();
    expect((await stat(join(dir, 'password'))).mode & 0o777).to.equal(0o600);

    const second = await startPostgres({ dataDir: dir, settings });
    try {
      expect(await query(second.superuserUrl, 'SELECT n FROM kept')).to.deep.equal([{ n: 42 }]);
      const wrong = new URL(second.superuserUrl);
      wrong.password = 'wrong';
      const error = await rejection(query(wrong.href, 'SELECT 1'));
      expect(error.message).to.contain('password authentication failed');
    } finally {
      await second.stop();
    }
  });

  it('starts again after the postmaster was killed, its pid file left behind', async () => {
    const first = await startPostgres({ dataDir: dir, settings });
    await query(first.superuserUrl, 'CREATE TABLE kept AS SELECT 42 AS n');
    await first.kill('SIGKILL');
    const pidFile = join(dir, 'cluster', 'postmaster.pid');
    // The number may by now be that of a process which has nothing to do with it: ours, say.
    const text = await readFile(pidFile, 'utf8');
    await writeFile(pidFile, text.replace(/^\d+/, String(process.pid)));

    const second = await startPostgres({ dataDir: dir, settings });
    try {
      expect(await query(second.superuserUrl, 'SELECT n FROM kept')).to.deep.equal([{ n: 42 }]);
    } finally {
      await second.stop();
    }
  });

  it('does initdb again when an earlier one was interrupted', async () => {
    await mkdir(join(dir, 'cluster.unfinished'));
    await writeFile(join(dir, 'cluster.unfinished', 'PG_VERSION'), '18\n');
    const postgres = await startPostgres({ dataDir: dir, settings });
    await postgres.stop();
  });

  it("quotes the server's own last lines when it does not start", async () => {
    const error = await rejection(startPostgres({ dataDir: dir, settings: { ...settings, no_such: '1' } }));
    expect(error.message).to.contain('PostgreSQL did not start in');
    expect(error.message).to.contain('unrecognized configuration parameter "no_such"');
  });

  it('leaves no postmaster and no temporary data behind when its parent is killed with SIGKILL', async () => {
    const script = fileURLToPath(new URL('./start-and-wait.ts', import.meta.url));
    const parent = spawn(process.execPath, [script, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = await once(createInterface(parent.stdout), 'line');
    const postmasterPid = Number(line);
    expect(isAlive(postmasterPid)).to.equal(true);

    parent.kill('SIGKILL');
    const deadlineMs = Date.now() + 10_000;
    while (isAlive(postmasterPid) || (await exists(dir))) {
      if (Date.now() > deadlineMs)
        throw new Error(`Postmaster ${postmasterPid} or ${dir} is left after 10 s.`);
      await delay(20);
    }
  });
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function rejection(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof Error)) throw new Error('It was expected to reject with an Error.');
  return error;
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
