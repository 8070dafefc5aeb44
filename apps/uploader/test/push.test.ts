import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import type { RunOutcome } from '../src/results.ts';
import { type IngestServer, problem, startIngestServer } from './support/ingest-server.ts';
import { canBeBoundByModes, type Finished, lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';

describe('uploader push', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;

  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
  });
  afterEach(async () => {
    await server.stop();
    scratch.remove();
  });

  const env = (more: Record<string, string> = {}) => ({
    UPLOADER_URL: server.url,
    UPLOADER_TOKEN: server.token,
    UPLOADER_POLL: '100ms',
    HOME: join(scratch.path, 'home'),
    ...more,
  });
  const push = (args: string[], more: Record<string, string> = {}): Promise<Finished> =>
    startUploader(['push', ...args], env(more)).finished;
  const oneRun = (bytes = 1000): string => {
    scratch.write('data/churn/2026-11/a.jsonl', scoreLines(bytes));
    return join(scratch.path, 'data');
  };

  it('sends every file of every run, waits until they are published, and says so', async () => {
    const dir = oneRun(300_000);
    scratch.write('data/churn/2026-11/b.jsonl', scoreLines(50_000, 1e6));
    scratch.write('data/fraud/2026-11/a.ndjson', '{"pk":"1","score":1}');
    const { exitCode, stdout, stderr } = await push([dir]);
    expect(exitCode, stderr).to.equal(0);
    expect(stdout).to.match(/^churn\/2026-11: revision 1 is published, [\d,]+ rows; .* sent, .* in all\.$/m);
    expect(stdout).to.match(/^fraud\/2026-11: revision 1 is published, 1 row; 20 bytes sent/m);
    expect(stderr).to.not.include('\r');
  });

  const FILES = 40;
  const MANY: [string, (n: number) => string][] = [
    ['different', (n) => scoreLines(100, n * 1000)],
    ['empty in every second case', (n) => (n % 2 === 0 ? '' : scoreLines(100, n * 1000))],
    ['identical', () => scoreLines(100)],
  ];
  for (const [what, contentOf] of MANY)
    it(`reads the folder four times, to find ${FILES} files, after hashing, before the last bytes and after them, also when they are ${what}`, async () => {
      server.sharesWithinRun = false;
      for (let n = 0; n < FILES; n += 1) scratch.write(`data/churn/2026-11/${n}.jsonl`, contentOf(n));
      const logs = new URL('./support/log-readdir.ts', import.meta.url).href;
      const dir = join(scratch.path, 'data');
      const { exitCode, stderr } = await push([dir, '--transfers', '1'], {
        NODE_OPTIONS: `--import ${logs}`,
      });
      expect(exitCode, stderr).to.equal(0);
      const reads = stderr.split('\n').filter((line) => line === `readdir ${join(dir, 'churn/2026-11')}`);
      expect(reads).to.have.length(4);
    });

  it('writes its result as the last line of all it writes, as one JSON object on stdout', async () => {
    const dir = oneRun();
    const { exitCode, stdout, merged } = await push([dir, '--json']);
    expect(exitCode).to.equal(0);
    expect(stdout.trimEnd().split('\n')).to.have.length(1);
    expect(lastLine(merged)).to.equal(stdout.trimEnd());
    const result = JSON.parse(stdout);
    expect(result).to.include({ result: 'published', exitCode: 0 });
    expect(result.runs[0]).to.include({
      model: 'churn',
      run: '2026-11',
      revision: 1,
      state: 'published',
      error: null,
    });
    expect(result.runs[0].bytesSent).to.equal(result.runs[0].bytesTotal).and.equal(server.receivedBytes());
  });

  it('sends nothing when the run is there already', async () => {
    const dir = oneRun(100_000);
    await push([dir]);
    const before = server.receivedBytes();
    const { exitCode, stdout } = await push([dir]);
    expect(exitCode).to.equal(0);
    expect(stdout).to.include('nothing to send');
    expect(server.receivedBytes()).to.equal(before);
  });

  it('takes empty files, which are received from the start', async () => {
    scratch.write('data/churn/2026-11/empty.jsonl', '');
    const { exitCode } = await push([oneRun()]);
    expect(exitCode).to.equal(0);
  });

  it('finds the service below a path, and a run key with spaces, colons, plus signs and slashes', async () => {
    const below = await startIngestServer('/ingest');
    try {
      scratch.write('out/a.jsonl', scoreLines(1000));
      const run = 'scheduled__2026-11-01T00:00:00+00:00 / again';
      const { exitCode, stdout, stderr } = await push(
        [join(scratch.path, 'out'), '--model', 'churn', '--run', run, '--json'],
        { UPLOADER_URL: `${below.url}/` },
      );
      expect(exitCode, stderr).to.equal(0);
      expect(JSON.parse(stdout).runs[0].run).to.equal(run);
    } finally {
      await below.stop();
    }
  });

  it('says to the service who pushed, from where, and for which Airflow task', async () => {
    const { exitCode } = await push([oneRun(), '--as-of', '2026-11-01'], {
      AIRFLOW_CTX_DAG_ID: 'monthly',
      AIRFLOW_CTX_TASK_ID: 'push',
      AIRFLOW_CTX_DAG_RUN_ID: 'manual__1',
      AIRFLOW_CTX_TRY_NUMBER: '2',
    });
    expect(exitCode).to.equal(0);
    const manifest = server.lastManifest() as { as_of: string; source: Record<string, unknown> };
    expect(manifest.as_of).to.equal('2026-11-01T00:00:00.000Z');
    expect(manifest.source).to.include.keys('host', 'user', 'pid', 'uploader');
    expect(manifest.source.airflow).to.deep.equal({
      dag_id: 'monthly',
      task_id: 'push',
      run_id: 'manual__1',
      try_number: '2',
    });
  });

  describe('exits', () => {
    it('with 0 when all is received and --no-wait was given', async () => {
      server.settleAs = 'queued';
      const { exitCode, stdout } = await push([oneRun(), '--no-wait', '--json']);
      expect(exitCode).to.equal(0);
      expect(JSON.parse(stdout).result).to.equal('received');
    });

    it('with 2 when the service answers in a form that this uploader does not understand', async () => {
      server.intercept = (_request, response) => {
        const json = { 'Content-Type': 'application/json' };
        response.writeHead(200, json).end('{"model":"churn","state":"daydreaming"}');
        return true;
      };
      const { exitCode, stdout } = await push([oneRun(), '--json']);
      expect(exitCode).to.equal(2);
      expect(JSON.parse(stdout).runs[0].error.detail).to.include('its version is not that of the uploader');
    });

    it('with 2 and all faults at once when the settings are wrong, JSON last even then', async () => {
      const { exitCode, stdout, stderr, merged } = await push([oneRun(), '--json', '--transfers', '0'], {
        UPLOADER_URL: 'ftp://x',
        UPLOADER_TOKEN: '',
      });
      expect(exitCode).to.equal(2);
      expect(stderr).to.include('--transfers').and.include('UPLOADER_URL').and.include('There is no token');
      expect(JSON.parse(lastLine(merged))).to.include({ result: 'usage', exitCode: 2 });
      expect(JSON.parse(stdout).error.detail).to.include('--transfers');
    });

    it('with 2 on an option that does not exist, and names the one that was meant', async () => {
      const { exitCode, stderr, merged } = await push([oneRun(), '--modell', 'x', '--json']);
      expect(exitCode).to.equal(2);
      expect(stderr).to.include('--model');
      expect(JSON.parse(lastLine(merged)).exitCode).to.equal(2);
    });

    it('with the first of 1, 2, 77, 66, 65, 75, 0 over all runs, and pushes those that can be', async () => {
      scratch.write('data/Churn/2026-11/a.jsonl', 'x');
      scratch.write('data/other/1/a.jsonl.bz2', 'x');
      scratch.write('data/other/2/a.jsonl', scoreLines(100));
      scratch.write('data/other/3/_SUCCESS', '');
      scratch.write('data/stray.csv', 'x');
      const { exitCode, stdout, stderr } = await push([oneRun(), '--json']);
      expect(exitCode, stderr).to.equal(2);
      const { runs, error } = JSON.parse(lastLine(stdout));
      const ends = runs.map((run: RunOutcome) => `${run.model}/${run.run} ${run.error?.code ?? run.state}`);
      expect(ends).to.deep.equal([
        'Churn/2026-11 usage',
        'churn/2026-11 published',
        'other/1 source',
        'other/2 published',
        'other/3 source',
      ]);
      expect(error.detail).to.include('stray.csv');
      for (const sentence of ['"Churn"', 'other/1: a.jsonl.bz2: it is not a data file', 'stray.csv: ']) {
        expect(stderr).to.include(sentence);
      }
      const plain = await push([join(scratch.path, 'data'), '--ignore', 'Churn']);
      expect(plain.exitCode).to.equal(66);
      expect(plain.stdout).to.match(
        /\n2 published, 2 not sent; exit 66\nReaders see what was pushed for 2 models\.\n$/,
      );
      const ignored = await push([
        join(scratch.path, 'data'),
        '--ignore',
        'Churn',
        '--ignore',
        '*.csv,other/[13]',
        '--json',
      ]);
      expect(ignored.exitCode, ignored.stderr).to.equal(0);
      expect(JSON.parse(lastLine(ignored.stdout)).ignored.count).to.equal(4);
      expect(ignored.stderr).to.include('Left out by --ignore: Churn, other/1, other/3, stray.csv');
    });

    it('with 66 when a folder cannot be read, and pushes the others', async function () {
      if (!canBeBoundByModes()) this.skip();
      scratch.write('data/other/1/a.jsonl', scoreLines(100));
      scratch.write('data/locked/1/a.jsonl', scoreLines(100));
      const dir = oneRun();
      for (const folder of ['data/other/1', 'data/locked']) chmodSync(join(scratch.path, folder), 0);
      const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: scratch.path };
      const { exitCode, stdout } = await startUploader(['push', dir], env, { boundByModes: true }).finished;
      for (const folder of ['data/other/1', 'data/locked']) chmodSync(join(scratch.path, folder), 0o700);
      expect(exitCode).to.equal(66);
      expect(stdout).to.include('churn/2026-11: revision 1 is published');
      expect(stdout)
        .to.match(/^other\/1: .*this user may not read it/m)
        .and.match(/^locked: .*may not read it/m);
    });

    it('with 4 declarations at once at most', async () => {
      for (let run = 1; run <= 12; run++) scratch.write(`data/churn/${run}/a.jsonl`, scoreLines(100));
      let declaring = 0;
      let most = 0;
      server.intercept = (request, response) => {
        if (request.method === 'PUT') {
          declaring++;
          most = Math.max(most, declaring);
          response.on('finish', () => declaring--);
        }
        return false;
      };
      server.declareAfterMs = 500; // long enough for a busy machine to hash four runs
      expect((await push([oneRun()])).exitCode).to.equal(0);
      expect(most).to.equal(4);
    });

    it('with 65 when the data is at fault, and shows where', async () => {
      server.settleAs = 'failed';
      const { exitCode, stdout, stderr } = await push([oneRun()]);
      expect(exitCode).to.equal(65);
      expect(stdout).to.match(
        /^churn\/2026-11: revision 1 failed: \d+ bad lines, the first is a\.jsonl:7\. Fix the data/m,
      );
      expect(stdout).to.include(`churn/2026-11: its page: ${server.url}/#/runs/churn/2026-11\n`);
      expect(stderr)
        .to.include('churn/2026-11: a.jsonl:7 (byte 240) invalid_json: ')
        .and.include('bad lines in all');
    });

    it('with 65 at once, and sends nothing, when the same content has failed before', async () => {
      server.settleAs = 'failed';
      const dir = oneRun(100_000);
      await push([dir]);
      const before = server.receivedBytes();
      const { exitCode, elapsedMs } = await push([dir]);
      expect(exitCode).to.equal(65);
      expect(server.receivedBytes()).to.equal(before);
      expect(elapsedMs).to.be.lessThan(5000);
    });

    it('with 66 when the folder is missing, is empty, or a run has no data file', async () => {
      expect((await push([join(scratch.path, 'nowhere')])).exitCode).to.equal(66);
      mkdirSync(join(scratch.path, 'bare'));
      expect((await push([join(scratch.path, 'bare')])).exitCode).to.equal(66);
      scratch.write('data/fraud/2026-11/_SUCCESS', '');
      const { exitCode, stdout } = await push([oneRun()]);
      expect(exitCode).to.equal(66);
      expect(stdout)
        .to.include('churn/2026-11: revision 1 is published')
        .and.include('contains no data file');
    });

    it('with 66 when a file cannot be read', async function () {
      if (!canBeBoundByModes()) this.skip();
      const dir = oneRun();
      const run = join(dir, 'churn/2026-11');
      for (const [path, sentence] of [
        [join(run, 'a.jsonl'), 'a.jsonl cannot be read: this user may not read it'],
        [run, '2026-11 cannot be read: this user may not read it'],
      ] as const) {
        chmodSync(path, 0);
        const { exitCode, stderr, stdout } = await startUploader(['push', dir], env(), { boundByModes: true })
          .finished;
        chmodSync(path, 0o700);
        expect(exitCode).to.equal(66);
        expect(stdout + stderr).to.include(sentence);
      }
      expect(server.requests).to.deep.equal([]);
    });

    it('with 75 when the service cannot be reached in time', async () => {
      const { exitCode, stdout, stderr } = await push([oneRun(), '--max-duration', '3s'], {
        UPLOADER_URL: 'http://127.0.0.1:1',
      });
      expect(exitCode).to.equal(75);
      // Several tries, one line.
      expect(
        stderr.match(/^churn\/2026-11: 127\.0\.0\.1:1 refuses connections; retrying until /gm),
      ).to.have.length(1);
      expect(stderr).to.not.match(/refuses.*\n.*refuses/);
      expect(stdout).to.match(/in \d+ tr(y|ies): 127\.0\.0\.1:1 refuses/);
      expect(stdout).to.include('127.0.0.1:1 refuses connections').and.include('Run the same command again');
    });

    it('with 75 when time is over before the run is published', async () => {
      server.settleAs = 'queued';
      const { exitCode, stdout } = await push([oneRun(), '--max-duration', '3s', '--json']);
      expect(exitCode).to.equal(75);
      expect(JSON.parse(stdout).runs[0]).to.include({ state: 'queued' });
    });

    it('with 77 when the token is unknown, or does not cover the model', async () => {
      const dir = oneRun();
      expect((await push([dir], { UPLOADER_TOKEN: 'other' })).exitCode).to.equal(77);
      server.intercept = (_request, response) => {
        problem(response, 404, 'Not found', 'No such model.');
        return true;
      };
      expect((await push([dir])).exitCode).to.equal(77);
    });

    it('with 2 when a page answers that is not the service, and when it is sent elsewhere', async () => {
      const dir = oneRun();
      server.intercept = (_request, response) => {
        response.writeHead(404, { 'Content-Type': 'text/html' }).end('<html><h1>Wrong place</h1></html>');
        return true;
      };
      const wrong = await push([dir]);
      expect(wrong.exitCode).to.equal(2);
      expect(wrong.stdout).to.include('Wrong place').and.include('UPLOADER_URL');
      server.intercept = (_request, response) => {
        response.writeHead(301, { Location: 'https://elsewhere.example/' }).end();
        return true;
      };
      expect((await push([dir])).exitCode).to.equal(2);
    });
  });
});
