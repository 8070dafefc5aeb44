import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import { runProgram, waitFor } from './support/programs.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

interface Pooler {
  port: number;
  stop(): Promise<void>;
}

/** PgBouncer in front of the server of `databaseUrl`; all that is not in `settings` is its default. */
async function startPooler(databaseUrl: string, settings: string[]): Promise<Pooler> {
  const { hostname, port, username, password } = new URL(databaseUrl);
  const dir = await mkdtemp(join(tmpdir(), 'score-ingest-pgbouncer-'));
  await chmod(dir, 0o755);
  const listenPort = await freePort();
  await writeFile(join(dir, 'users'), `"${username}" "${decodeURIComponent(password)}"\n`, { mode: 0o644 });
  await writeFile(
    join(dir, 'pgbouncer.ini'),
    [
      '[databases]',
      `* = host=${hostname} port=${port}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${listenPort}`,
      'unix_socket_dir =',
      'auth_type = md5',
      `auth_file = ${join(dir, 'users')}`,
      ...settings,
      '',
    ].join('\n'),
  );
  const asNobody = process.getuid?.() === 0 ? ['-u', 'nobody'] : []; // it does not run as root
  const child = spawn('pgbouncer', ['-q', ...asNobody, join(dir, 'pgbouncer.ini')], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  await waitFor('PgBouncer to listen', () => isListening(listenPort));
  return {
    port: listenPort,
    async stop() {
      child.kill('SIGTERM');
      await ended;
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function isListening(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  const isThere = await once(socket, 'connect').then(
    () => true,
    () => false,
  );
  socket.destroy();
  return isThere;
}

async function isInstalled(): Promise<boolean> {
  const child = spawn('pgbouncer', ['--version'], { stdio: 'ignore' });
  return once(child, 'exit').then(
    () => true,
    () => false,
  );
}

describe('behind PgBouncer', () => {
  let system: TestSystem;
  let pooler: Pooler | undefined;
  let empty: TestDatabase | undefined;
  before(async function () {
    if (await isInstalled()) return;
    console.log('      skipped: there is no pgbouncer here (Debian: the package pgbouncer)');
    this.skip();
  });
  afterEach(async () => {
    await pooler?.stop(); // it keeps connections of clients that have gone
    pooler = undefined;
    await system?.stop();
    await empty?.drop();
    empty = undefined;
  });

  const throughPooler = (url: string) => Object.assign(new URL(url), { port: String(pooler?.port) }).href;

  const start = async (...settings: string[]) => {
    system = await startTestSystem({
      databasePort: async (databaseUrl) => {
        pooler = await startPooler(databaseUrl, settings);
        return pooler.port;
      },
    });
  };

  it('in its default configuration, which is session mode: migrate, serve, load and push work, also after a kill', async () => {
    await start();
    empty = await createTestDatabase();
    const migrated = await runProgram('ingest-api', ['migrate'], { DATABASE_URL: throughPooler(empty.url) });
    expect(migrated.code, migrated.stderr).to.equal(0);
    let service = await system.startService();
    system.startLoader();
    for (const run of ['2026-10', '2026-11']) {
      const dir = join(system.workDir, run);
      await mkdir(join(dir, 'churn', run), { recursive: true });
      const lines = Array.from({ length: 2_000 }, (_, pk) => `{"pk":"${pk}","score":${pk},"of":"${run}"}\n`);
      await writeFile(join(dir, 'churn', run, 'a.jsonl'), lines.join(''));
      const { code, stdout, stderr } = await system.runUploader(service.url, ['push', dir, '--json']);
      expect(code, stderr).to.equal(0);
      expect(JSON.parse(stdout)).to.include({ result: 'published' });
      await service.kill('SIGKILL');
      service = await system.startService();
    }
    const rows = await system.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.churn');
    expect(rows).to.deep.equal([{ rows: 2_000, run: '2026-11' }]);
  });

  it('in transaction mode is refused by migrate, serve and load with 2, and with what to do', async () => {
    await start('pool_mode = transaction');
    for (const command of ['migrate', 'serve', 'load']) {
      const { code, stderr } = await runProgram('ingest-api', [command], {
        DATABASE_URL: throughPooler(system.databaseUrl),
        INGEST_DATA_DIR: join(system.workDir, 'uploads'),
        INGEST_PORT: '0',
      });
      expect(code, `${command}: ${stderr}`).to.equal(2);
      expect(stderr).to.contain('Use pool_mode = session');
    }
  });
});
