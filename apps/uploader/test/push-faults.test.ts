import { createHash } from 'node:crypto';
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { type IngestServer, problem, startIngestServer } from './support/ingest-server.ts';
import { lastLine, type Started, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';
import { waitUntil } from './support/wait-until.ts';

const MIB = 2 ** 20;

for (const mode of ['off', 'zstd'] as const)
  describe(`uploader push --compress ${mode}, when something fails`, () => inMode(mode));

function inMode(mode: 'off' | 'zstd'): void {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  let dir: string;
  let file: string;
  let started: Started[];

  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
    started = [];
    file = scratch.write('data/churn/2026-11/a.jsonl', scoreLines(4 * MIB));
    dir = join(scratch.path, 'data');
  });
  afterEach(async () => {
    for (const { process } of started) process.kill('SIGKILL');
    await server.stop();
    scratch.remove();
  });

  const start = (args: string[] = [], env: Record<string, string> = {}): Started => {
    const one = startUploader(['push', dir, '--poll', '100ms', '--json', '--compress', mode, ...args], {
      UPLOADER_URL: server.url,
      UPLOADER_TOKEN: server.token,
      HOME: join(scratch.path, 'home'),
      ...env,
    });
    started.push(one);
    return one;
  };
  const startAndStopInMidTransfer = async (args: string[] = []): Promise<Started> => {
    server.stopReadingAtBytes = MIB;
    const one = start(args);
    await waitUntil('the service has a part of the file', () => server.receivedBytes() >= MIB);
    return one;
  };
  const first = () => `${file.slice(0, -7)}0.jsonl`;
  const sizeOf = (text: string): number => JSON.parse(lastLine(text)).runs[0].bytesTotal;

  for (const host of ['the same host', 'another host, which knows nothing']) {
    it(`killed in mid transfer, and run again on ${host}, sends only the rest`, async () => {
      const first = await startAndStopInMidTransfer();
      first.process.kill('SIGKILL');
      await first.finished;
      server.stopReadingAtBytes = Number.POSITIVE_INFINITY;
      const home = join(scratch.path, host === 'the same host' ? 'home' : 'other-home');
      const { exitCode, stdout } = await start([], { HOME: home }).finished;
      expect(exitCode).to.equal(0);
      expect(server.receivedBytes()).to.equal(sizeOf(stdout));
      expect(JSON.parse(stdout).runs[0].bytesSent).to.be.lessThan(sizeOf(stdout));
    });
  }

  for (const [signal, code] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    it(`stopped by ${signal} ends at once with ${code}, the result last, and says that it may run again`, async () => {
      const first = await startAndStopInMidTransfer();
      const stoppedAt = performance.now();
      first.process.kill(signal);
      const { exitCode, merged } = await first.finished;
      expect(performance.now() - stoppedAt).to.be.lessThan(2000);
      expect(exitCode).to.equal(code);
      expect(merged).to.include('Run the same command again');
      expect(JSON.parse(lastLine(merged))).to.include({ result: 'interrupted', exitCode: code });
    });
  }

  it('waits as long as Retry-After says', async () => {
    const asked: number[] = [];
    server.intercept = (request, response) => {
      if (request.method !== 'PUT' || asked.push(performance.now()) > 1) return false;
      problem(response, 507, 'Insufficient storage', 'The disk is full.', { 'Retry-After': '2' });
      return true;
    };
    const { exitCode, stderr } = await start().finished;
    expect(exitCode).to.equal(0);
    expect(stderr)
      .to.include('The disk is full')
      .and.match(/retrying until .*\d\d:\d\d/);
    expect((asked[1] ?? 0) - (asked[0] ?? 0)).to.be.at.least(1990);
  });

  // 4 runs are declared at the same time, and here 4 files sent.
  for (const [method, status, runs] of [
    ['PUT', 507, 4],
    ['PUT', 429, 9],
    ['PATCH', 507, 4],
    ['PATCH', 423, 9],
  ] as const)
    it(`publishes a run while ${method} of ${runs} others is answered ${status} without an end`, async () => {
      for (let run = 0; run < runs; run++)
        scratch.write(`data/a/${run}/a.jsonl`, scoreLines(100, run * 1000));
      const isOfOthers = (url: string) => url.startsWith('/v1/models/a/runs');
      const faults = new Set<string>();
      server.intercept = (request, response) => {
        const url = request.url ?? '';
        const isUpload = url.startsWith('/v1/uploads') && url !== uploadUrl;
        if (request.method !== method || !(isOfOthers(url) || isUpload)) return false;
        faults.add(url);
        request.resume();
        problem(response, status, 'No', 'Not now.', { 'Retry-After': '1000' });
        return true;
      };
      const uploadUrl = `/v1/uploads/${createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 24)}`;
      start(['--transfers', '4']);
      const sizeBytes = statSync(file).size;
      await waitUntil('the run is whole', () => server.receivedBytes() === sizeBytes, 15_000);
      await waitUntil('each of the others has met the fault', () => faults.size === runs, 10_000);
      const headers = { Authorization: `Bearer ${server.token}` };
      const run = await fetch(`${server.url}/v1/models/churn/runs/2026-11`, { headers });
      expect(await run.json()).to.include({ state: 'published' });
    });

  it('ends with 75 at once when Retry-After is longer than it may take', async () => {
    server.intercept = (_request, response) => {
      problem(response, 503, 'Unavailable', 'Maintenance.', { 'Retry-After': '3600' });
      return true;
    };
    const { exitCode, elapsedMs } = await start(['--max-duration', '5m']).finished;
    expect(exitCode).to.equal(75);
    expect(elapsedMs).to.be.lessThan(10_000);
  });

  it("continues after a proxy's 502 page, a 429, a lock and a cut connection", async () => {
    const faults = [
      { method: 'PUT', status: 502 },
      { method: 'PATCH', status: 429 },
      { method: 'HEAD', status: 502 },
      { method: 'HEAD', status: 423 },
      { method: 'PATCH', status: 0 },
      { method: 'GET', status: 504 },
    ];
    server.intercept = (request, response) => {
      if (faults[0]?.method !== request.method) return false;
      const status = faults.shift()?.status;
      if (!status) request.socket.destroy();
      else response.writeHead(status, { 'Content-Type': 'text/html' }).end('<html><body>Busy</body></html>');
      return true;
    };
    const { exitCode, stderr, stdout } = await start().finished;
    expect(exitCode, stderr).to.equal(0);
    expect(faults).to.deep.equal([]);
    expect(server.receivedBytes()).to.equal(sizeOf(stdout));
  });

  it('tries again when the service took a chunk and did not move on', async () => {
    let stood = 0;
    server.intercept = (request, response) => {
      if (request.method !== 'PATCH' || stood++ > 0) return false;
      request.resume().once('end', () => {
        const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Offset': request.headers['upload-offset'] };
        response.writeHead(204, headers).end();
      });
      return true;
    };
    const { exitCode, stderr, stdout } = await start().finished;
    expect(exitCode, stderr).to.equal(0);
    expect(stderr).to.include('204: it took none of the bytes');
    expect(server.receivedBytes()).to.equal(sizeOf(stdout));
  });

  it('leaves a connection on which nothing moves, and continues over another', async () => {
    const first = await startAndStopInMidTransfer(['--stall-timeout', '500ms']);
    server.stopReadingAtBytes = Number.POSITIVE_INFINITY;
    const { exitCode, stdout, stderr } = await first.finished;
    expect(exitCode).to.equal(0);
    expect(stderr).to.include('nothing moved for 0.5 s');
    expect(server.receivedBytes()).to.equal(sizeOf(stdout));
  });

  it('declares the run again when an upload is gone, and sends the file again', async () => {
    let gone = 0;
    server.intercept = (request, response) => {
      if (request.method !== 'PATCH' || gone++ > 0) return false;
      problem(response, 404, 'Not found', 'No such upload.');
      return true;
    };
    const { exitCode } = await start().finished;
    expect(exitCode).to.equal(0);
    expect(server.requests.filter((request) => request.startsWith('PUT'))).to.have.length(2);
  });

  it('ends with 75 when the upload is gone again after that', async () => {
    server.intercept = (request, response) => {
      if (request.method !== 'PATCH') return false;
      problem(response, 410, 'Gone', 'No such upload.');
      return true;
    };
    expect((await start().finished).exitCode).to.equal(75);
  });

  for (const [what, change] of [
    ['grows', () => appendFileSync(file, 'more\n')],
    ['is cut', () => truncateSync(file, 2 * MIB)],
    ['is joined by another one', () => writeFileSync(`${file.slice(0, -7)}b.jsonl`, scoreLines(1))],
    ['is joined by a file that is no data', () => writeFileSync(`${file}.csv`, '')],
  ] as const) {
    it(`ends with 66 when a file ${what} while it is sent`, async () => {
      const first = await startAndStopInMidTransfer(['--stall-timeout', '500ms']);
      change();
      server.stopReadingAtBytes = Number.POSITIVE_INFINITY;
      const { exitCode, stdout } = await first.finished;
      expect(exitCode).to.equal(66);
      expect(JSON.parse(stdout).runs[0].error).to.deep.include({ code: 'source' });
      expect(server.receivedBytes(), 'nothing is complete').to.be.lessThan(sizeOf(stdout));
    });
  }

  for (const [what, says, change] of [
    ['changes', 'a.jsonl changed', () => appendFileSync(file, 'more\n')],
    ['is removed', 'a.jsonl cannot be read: it does not exist', () => rmSync(file)],
    ['that arrived before changes', '0.jsonl changed', () => appendFileSync(first(), 'more\n')],
    ['that arrived before is removed', '0.jsonl cannot be read: it does not exist', () => rmSync(first())],
    ['is added', 'b.jsonl was added', () => writeFileSync(`${file.slice(0, -7)}b.jsonl`, scoreLines(1))],
    [
      'that is no data is added',
      'a.jsonl.csv: it is not a data file',
      () => writeFileSync(`${file}.csv`, ''),
    ],
  ] as const)
    for (const answer of what === 'changes' ? ['arrives', 'is lost'] : ['arrives'])
      it(`ends with 66 when a file ${what} while the last bytes are on their way, whose answer ${answer}, and says that they may be loaded`, async () => {
        writeFileSync(first(), scoreLines(100));
        let patches = 0;
        server.intercept = (request) => {
          if (request.method !== 'PATCH' || ++patches !== 2) return false;
          request.once('end', () => {
            change();
            if (answer === 'is lost') request.socket.destroy();
          });
          return false;
        };
        const { exitCode, stdout, stderr } = await start(['--transfers', '1']).finished;
        expect(exitCode).to.equal(66);
        expect(stderr.includes('closed the connection')).to.equal(answer === 'is lost');
        expect(JSON.parse(stdout).runs[0].error.detail)
          .to.include(says)
          .and.match(
            / This was found after the last bytes were sent: the service loads the run if it has all /,
          );
        expect(server.receivedBytes()).to.equal(sizeOf(stdout));
      });

  it('ends with 75 when something else arrived than was declared, and then reads and sends it again', async () => {
    const yesterday = new Date(Date.now() - 86_400_000);
    utimesSync(file, yesterday, yesterday);
    expect((await start().finished).exitCode).to.equal(0);
    // Same size, time and inode, other content: what no cache can notice.
    writeFileSync(file, scoreLines(4 * MIB, 500_000));
    utimesSync(file, yesterday, yesterday);
    server.forgetAll();
    const first = await start().finished;
    expect(first.exitCode).to.equal(75);
    expect(first.stdout).to.include('not what was declared');
    expect((await start().finished).exitCode).to.equal(0);
  });

  it('sends what two files have in common once, when they share an upload', async () => {
    writeFileSync(join(dir, 'churn/2026-11/b.jsonl'), scoreLines(4 * MIB));
    const { exitCode, stdout } = await start().finished;
    expect(exitCode).to.equal(0);
    expect(server.receivedBytes()).to.equal(sizeOf(stdout) / 2);
  });

  it('ends with 65 when somebody else replaces the run meanwhile', async () => {
    server.settleAs = 'queued';
    const first = start();
    await waitUntil('it waits for the run', () =>
      server.requests.some((request) => request.startsWith('GET')),
    );
    const other = makeScratch();
    other.write('churn/2026-11/a.jsonl', scoreLines(100));
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: other.path };
    const second = startUploader(['push', other.path, '--no-wait'], env);
    expect((await second.finished).exitCode).to.equal(0);
    other.remove();
    const { exitCode, stdout } = await first.finished;
    expect(exitCode).to.equal(65);
    expect(stdout).to.include('was replaced');
  });

  it('does not mind garbage in its state folder, nor that it is deleted or cannot be written meanwhile', async () => {
    const stateDir = join(scratch.path, 'state');
    expect((await start(['--state-dir', stateDir]).finished).exitCode).to.equal(0);
    for (const name of readdirSync(stateDir)) writeFileSync(join(stateDir, name), '{"version":1,"files":{"');
    expect((await start(['--state-dir', stateDir]).finished).exitCode).to.equal(0);
    for (const name of readdirSync(stateDir)) mkdirSync(join(stateDir, `${name}.d`));

    server.intercept = (request) => {
      // The hashes are kept by now; the lock is still held.
      if (request.method === 'PUT') rmSync(stateDir, { recursive: true });
      return false;
    };
    expect((await start(['--state-dir', stateDir]).finished).exitCode).to.equal(0);
  });

  it('pushes on when whoever read its output has gone; that the result is lost is not 0', async () => {
    const one = start();
    one.process.stdout?.destroy();
    one.process.stderr?.destroy();
    const { exitCode } = await one.finished;
    expect(exitCode).to.equal(75);
    const again = start();
    again.process.stderr?.destroy();
    const { exitCode: code, stdout } = await again.finished;
    expect(code).to.equal(0);
    expect(JSON.parse(stdout).runs[0]).to.include({ state: 'published', bytesSent: 0 });
  });

  it('pushes many runs at once without a warning of Node', async () => {
    for (let run = 10; run < 40; run++)
      scratch.write(`data/fraud/${run}/a.jsonl`, scoreLines(500, run * 1000));
    const { exitCode, stderr, stdout } = await start().finished;
    expect(exitCode).to.equal(0);
    expect(stderr).to.not.include('Warning');
    expect(JSON.parse(stdout).runs).to.have.length(31);
  });
}
