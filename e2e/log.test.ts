import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { LoggingOrder } from './support/logging-program.ts';
import { makeLoopDisk } from './support/machine-faults.ts';
import { waitFor, waitForLog } from './support/programs.ts';
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
    await waitForLog(service, 'the log could not be written for a while');
    expect((await ask('/v1/status')).status).to.equal(200);
    const ofRequests = () => {
      const lines = service.stdout().split('\n').slice(0, -1);
      const logged = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
      return {
        kept: logged.filter(({ msg }) => msg === 'request').length,
        dropped: logged.reduce((sum, { droppedLines = 0 }) => sum + Number(droppedLines), 0),
      };
    };
    // And the two of the status.
    await waitFor('all lines, kept or counted', async () => {
      const { kept, dropped } = ofRequests();
      return kept + dropped === REQUESTS + 2;
    });
    expect(ofRequests().kept, 'lines kept for the reader').to.be.above(400);
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

/** The ways to end, and their exit codes. */
const ENDS = [
  ['end', 0],
  ['exit', 0],
  ['throw', 1],
] as const;

interface LoggingProgram {
  /** @returns how many it has logged so far. */
  log(lines: number): Promise<number>;
  end(how: Exclude<LoggingOrder, number>): Promise<{ code: number | null; signal: string | null }>;
}

/** @param output its standard output, which this closes here. */
function startLogging(output: number, level = 'info'): LoggingProgram {
  const program = fileURLToPath(new URL('./support/logging-program.ts', import.meta.url));
  const child = spawn(process.execPath, [program, level], {
    stdio: ['ignore', output, 'pipe', 'ipc'],
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });
  closeSync(output);
  const ended = once(child, 'exit');
  return {
    async log(lines) {
      child.send(lines);
      const [logged] = await once(child, 'message');
      return logged as number;
    },
    async end(how) {
      child.send(how);
      const [code, signal] = await ended;
      return { code, signal };
    },
  };
}

/** What a log file has: the numbers of its lines, and how many it says are missing. */
function readLog(text: string) {
  const lines = text.split('\n').slice(0, -1);
  const logged = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  const gaps = logged.filter(({ msg }) => msg === 'the log could not be written for a while');
  return {
    numbers: logged.filter(({ msg }) => msg === 'line').map(({ i }) => Number(i)),
    dropped: gaps.reduce((sum, { droppedLines }) => sum + Number(droppedLines), 0),
    faults: gaps.map(({ err }) => String(err)),
  };
}

describe('a log that cannot be written', () => {
  for (const [how, code] of ENDS)
    it(`keeps no program from its work, nor from its end (${how})`, async () => {
      for (const lines of [0, 1, 3, 1_000]) {
        const program = startLogging(openSync('/dev/full', 'w'));
        if (lines > 0) await program.log(lines);
        expect(await program.end(how), `after ${lines} lines`).to.deep.equal({ code, signal: null });
      }
    });

  for (const level of ['info', 'error'])
    it(`is written on once its disk has room, with the number of lines that are missing (level ${level})`, async function () {
      const disk = await makeLoopDisk(32);
      if (typeof disk === 'string') {
        console.log(`      skipped: ${disk}`);
        this.skip();
      }
      try {
        const path = join(disk.mountPoint, 'log');
        const filler = join(disk.mountPoint, 'filler');
        await fill(filler);
        const program = startLogging(openSync(path, 'a'), level);
        await program.log(1);
        const logged = await program.log(1_000);
        expect(await readFile(path, 'utf8'), 'while the disk is full').to.equal('');
        await rm(filler, { recursive: true });
        const seen = async () => readLog(await readFile(path, 'utf8'));
        const { dropped, numbers, faults } = await waitFor('what waited, and the count', async () => {
          const log = await seen();
          return log.dropped > 0 && log;
        });
        expect(numbers, 'the first lines').to.deep.equal([...Array(numbers.length).keys()]);
        expect(numbers.length, 'kept').to.be.above(400);
        expect(numbers.length + dropped, 'kept and counted').to.equal(logged);
        expect(faults[0]).to.match(/ENOSPC/);

        await program.log(10);
        await waitFor('the lines after that', async () => (await seen()).numbers.includes(logged + 9));
        expect(await program.end('end')).to.deep.equal({ code: 0, signal: null });
        expect((await seen()).numbers.slice(numbers.length)).to.deep.equal(
          Array.from({ length: 10 }, (_, i) => logged + i),
        );
      } finally {
        await disk.remove();
      }
    });

  it('is written to the next reader of its pipe', () =>
    withPipe(async ({ program, open }) => {
      const first = open();
      const logging = program();
      await logging.log(1);
      await waitFor('the first line', () => first.log().numbers.length === 1);
      first.close();
      await logging.log(3);
      const second = open();
      await waitFor('the lines since then', () => second.log().numbers.length === 3);
      expect(await logging.end('end')).to.deep.equal({ code: 0, signal: null });
      second.close();
      expect(second.log().numbers).to.deep.equal([1, 2, 3]);
    }));
});

describe('a log at the end of its program', () => {
  for (const [how, code] of ENDS)
    it(`is written to a pipe to its last line, whole lines in their order, or counted (${how})`, () =>
      withPipe(async ({ program, open }) => {
        for (const lines of [1, 8, 9, 40, 400, 1_000]) {
          const reader = open();
          const logging = program();
          await logging.log(lines);
          expect(await logging.end(how), `after ${lines} lines`).to.deep.equal({ code, signal: null });
          await waitFor('the end of the pipe', () => reader.hasEnded());
          const { numbers, dropped } = reader.log();
          expect(reader.isWhole(), 'no piece of a line at the end').to.equal(true);
          expect(numbers.length + dropped, 'kept and counted').to.equal(lines);
          expect(numbers).to.deep.equal(numbers.toSorted((a, b) => a - b));
          if (lines <= 400) expect(dropped).to.equal(0);
        }
      }));

  it('waits no longer than a moment for a reader that takes nothing', () =>
    withPipe(async ({ program, open }) => {
      const reader = open();
      reader.pause();
      const logging = program();
      await logging.log(1_000);
      const startedMs = Date.now();
      expect(await logging.end('end')).to.deep.equal({ code: 0, signal: null });
      expect(Date.now() - startedMs).to.be.below(5_000);
      reader.close();
    }));
});

interface Pipe {
  /** Starts a program whose log it is, for the reader that was opened last. */
  program(): LoggingProgram;
  /** A new reader. */
  open(): {
    log(): ReturnType<typeof readLog>;
    isWhole(): boolean;
    pause(): void;
    hasEnded(): boolean;
    close(): void;
  };
}

async function withPipe(work: (pipe: Pipe) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'score-ingest-log-'));
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  try {
    await work({
      program: () => startLogging(openSync(path, 'w')),
      open() {
        const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
        const socket = new Socket({ fd, readable: true, writable: false });
        let text = '';
        socket.setEncoding('utf8').on('data', (piece: string) => {
          text += piece;
        });
        return {
          log: () => readLog(text),
          isWhole: () => text.endsWith('\n'),
          pause: () => socket.pause(),
          hasEnded: () => socket.readableEnded,
          close: () => socket.destroy(),
        };
      },
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}
