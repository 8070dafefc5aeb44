import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { on, once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { migrateToLatest } from 'db-schema';
import { createTestDatabase, type TestDatabase } from 'local-postgres';
import { startSystem, type TestSystem } from './support/system.ts';

const MAIN = path.join(import.meta.dirname, '../bin/ingest-api.js');

async function untilLogged(child: ChildProcessWithoutNullStreams, message: string): Promise<void> {
  for await (const [line] of on(createInterface(child.stdout), 'line', { close: ['close'] }))
    if (String(line).includes(`"msg":"${message}"`)) return;
}

describe('the start and the end of a program', () => {
  let dir: string;
  let system: TestSystem; // its server has the roles
  const started = new Set<ChildProcess>();
  before(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'ingest-start-'));
    await writeFile(path.join(dir, 'keys'), 'a\n');
    system = await startSystem();
  });
  after(async () => {
    for (const child of started) child.kill('SIGKILL');
    await system.stop();
    await rm(dir, { recursive: true });
  });

  function start(args: readonly string[], env: Record<string, string>) {
    const settings = { ...process.env, INGEST_STORE: path.join(dir, 'store'), INGEST_PORT: '0', ...env };
    const child = spawn(process.execPath, [MAIN, ...args], { env: settings });
    started.add(child);
    const ended = Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)]).then(
      ([[code], stdout, stderr]) => {
        started.delete(child);
        return { code: code as number | null, stdout, stderr };
      },
    );
    return { child, ended };
  }

  describe('with a database that was never migrated', () => {
    let empty: TestDatabase;
    before(async () => {
      empty = await createTestDatabase();
    });
    after(() => empty.drop());

    for (const command of [
      'serve',
      'load',
      'token list',
      'token create airflow',
      'model show',
      'model set churn --min-rows 1',
      'verify',
      'store adopt --reason test',
      'erase --model churn --reason test --pk-file',
    ])
      it(`${command} says what to run, and ends with 2`, async () => {
        const args = command.split(' ');
        if (command.endsWith('--pk-file')) args.push(path.join(dir, 'keys'));
        const { code, stderr } = await start(args, { DATABASE_URL: empty.url }).ended;
        expect(stderr).to.match(
          /^ingest-api: The database "\w+" has no schema "ingest"\. .*"ingest-api migrate"/,
        );
        expect(code).to.equal(2);
      });
  });

  for (const command of ['serve', 'load'])
    it(`${command} that is stopped in its first start starts again: store and database know each other`, async () => {
      const database = await createTestDatabase();
      await migrateToLatest(database.url);
      const store = path.join(dir, `store-of-${command}`);
      const env = { DATABASE_URL: database.url, INGEST_STORE: store };
      const first = start([command], env);
      while (!existsSync(path.join(store, 'store.json'))) await delay(1);
      first.child.kill('SIGTERM');
      expect((await first.ended).stderr).to.equal('');
      const second = start([command], env);
      await untilLogged(second.child, command === 'serve' ? 'listening' : 'loader started');
      second.child.kill('SIGTERM');
      expect(await second.ended).to.include({ code: 0, stderr: '' });
      await database.drop();
    });

  it('is refused for memory that PostgreSQL cannot give to the key, by the name of the variable', async () => {
    for (const value of ['9999999GB', '0MB', '1kB']) {
      const { code, stderr } = await start(['load'], {
        DATABASE_URL: system.databaseUrl,
        INGEST_STORE: system.dataDir,
        INGEST_MAINTENANCE_WORK_MEM: value,
      }).ended;
      expect(stderr, value).to.match(/^ingest-api: INGEST_MAINTENANCE_WORK_MEM: .*maintenance_work_mem/);
      expect(code, value).to.equal(2);
    }
  });

  describe('when database or bucket do not answer', () => {
    let proxy: Server; // to the database, until it falls silent
    let isSilent = true;
    const sockets = new Set<Socket>();
    const address = () => `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    before(async () => {
      const { hostname, port } = new URL(system.databaseUrl);
      proxy = createServer((socket) => {
        sockets.add(socket.on('error', () => {}));
        if (isSilent) return;
        const behind = connect(Number(port), hostname).on('error', () => {});
        sockets.add(behind);
        socket.on('data', (bytes) => isSilent || behind.write(bytes)).on('close', () => behind.destroy());
        behind.on('data', (bytes) => isSilent || socket.write(bytes)).on('close', () => socket.destroy());
      }).listen(0, '127.0.0.1');
      await once(proxy, 'listening');
    });
    afterEach(() => {
      isSilent = true;
      for (const socket of sockets) socket.destroy();
      sockets.clear();
    });
    after(() => proxy.close());

    for (const command of ['serve', 'load'])
      for (const away of ['database', 'bucket'])
        it(`${command} ends at once when it is stopped while it waits for its ${away} at the start`, async () => {
          const bucket = {
            DATABASE_URL: system.databaseUrl,
            INGEST_STORE: 's3://bucket/prefix',
            INGEST_S3_ENDPOINT: `http://${address()}`,
            AWS_ACCESS_KEY_ID: 'a',
            AWS_SECRET_ACCESS_KEY: 'b',
          };
          const database = { DATABASE_URL: `postgres://${address()}/scores` };
          const { child, ended } = start([command], away === 'bucket' ? bucket : database);
          while (sockets.size === 0) await once(proxy, 'connection');
          const stoppedMs = performance.now();
          child.kill('SIGTERM');
          const { code, stderr } = await ended;
          expect(performance.now() - stoppedMs).to.be.below(5_000);
          expect([code, stderr]).to.deep.equal([0, '']);
        });

    for (const [command, begun] of [
      ['serve', 'listening'],
      ['load', 'loader started'],
    ] as const)
      it(`${command} ends soon when its database falls silent, and it is stopped`, async () => {
        isSilent = false;
        const url = new URL(system.databaseUrl);
        url.host = address();
        const { child, ended } = start([command], { DATABASE_URL: url.href, INGEST_STORE: system.dataDir });
        await untilLogged(child, begun);
        await delay(1_000);
        isSilent = true;
        const stoppedMs = performance.now();
        child.kill('SIGTERM');
        const { code, stderr } = await ended;
        expect(performance.now() - stoppedMs).to.be.below(15_000);
        expect([code, stderr]).to.deep.equal([0, '']);
      });
  });
});
