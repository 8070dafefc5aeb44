import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { makeLoopDisk } from './support/machine-faults.ts';
import { waitForLog } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

/** A line of the log has the path of its request: together more than a pipe and the 4 MiB that the service keeps. */
const LONG_PATH = `/${'x'.repeat(8_000)}`;
const REQUESTS = 1_000;
const WITHIN_MS = 5_000;

describe('a log that nobody reads', () => {
  let system: TestSystem;
  let service: Service;
  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
  });
  after(() => system.stop());

  const ask = (path: string) =>
    fetch(`${service.url}${path}`, {
      headers: { authorization: `Bearer ${system.token}` },
      signal: AbortSignal.timeout(WITHIN_MS),
    });

  it('delays no answer, keeps 4 MiB, and counts what it drops', async () => {
    service.leaveUnread(true);
    for (let request = 0; request < REQUESTS; request += 1) await (await ask(LONG_PATH)).text();
    expect((await ask('/v1/status')).status).to.equal(200);

    service.leaveUnread(false);
    const { droppedLines } = await waitForLog(service, 'the log could not be written for a while');
    const whole = service.stdout().split('\n').slice(0, -1);
    const kept = whole.filter((line) => JSON.parse(line).msg === 'request').length;
    expect(kept, 'lines kept for the reader').to.be.above(400);
    expect(kept + Number(droppedLines), 'lines kept and counted').to.equal(REQUESTS + 1); // and that of the status
  });
});

/** Until not one block is left, also for a small file. */
async function fill(folder: string): Promise<void> {
  await mkdir(folder);
  let file = 0;
  for (const bytes of [2 ** 20, 2 ** 12, 1]) {
    const isStored = () =>
      writeFile(join(folder, `${file++}`), Buffer.alloc(bytes), { flush: true }).then(
        () => true,
        (error: NodeJS.ErrnoException) => {
          if (error.code !== 'ENOSPC') throw error;
          return false;
        },
      );
    while (await isStored());
  }
}

describe('a log whose disk is full', () => {
  /** Logs for two seconds, as a program does. @returns how it ended. */
  async function logTo(path: string, meanwhile = async () => {}) {
    const log = new URL('../apps/ingest-api/src/log.ts', import.meta.url).href;
    const script = `
      import { setTimeout } from 'node:timers/promises';
      import { createLogger } from ${JSON.stringify(log)};
      const log = createLogger('info');
      for (let i = 0; i < 40; i += 1) {
        log.info({ i }, 'line');
        await setTimeout(50);
      }`;
    const output = openSync(path, 'a');
    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      stdio: ['ignore', output, 'inherit'],
      timeout: 20_000,
      killSignal: 'SIGKILL',
    });
    closeSync(output);
    const ended = once(child, 'exit');
    await meanwhile().finally(() => ended);
    const [code, signal] = await ended;
    return { code, signal };
  }

  it('does not keep the program from its work, nor from its end', async () => {
    expect(await logTo('/dev/full')).to.deep.equal({ code: 0, signal: null });
  });

  it('gets every line once there is room', async function () {
    const disk = await makeLoopDisk(16);
    if (typeof disk === 'string') {
      console.log(`      skipped: ${disk}`);
      this.skip();
    }
    try {
      const path = join(disk.mountPoint, 'log');
      const filler = join(disk.mountPoint, 'filler');
      await fill(filler);
      const ending = await logTo(path, async () => {
        await delay(1_500);
        expect(await readFile(path, 'utf8'), 'while the disk is full').to.equal('');
        await rm(filler, { recursive: true });
      });
      expect(ending).to.deep.equal({ code: 0, signal: null });
      const lines = (await readFile(path, 'utf8')).trimEnd().split('\n');
      const logged = lines.map((line) => JSON.parse(line));
      expect(logged.filter(({ msg }) => msg === 'line').map(({ i }) => i)).to.deep.equal([
        ...Array(40).keys(),
      ]);
      expect(logged.find(({ msg }) => msg !== 'line')?.err).to.match(/ENOSPC/);
    } finally {
      await disk.remove();
    }
  });
});
