import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { type IngestServer, problem, startIngestServer } from './support/ingest-server.ts';
import { canBeBoundByModes, lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';
import { waitUntil } from './support/wait-until.ts';

const BIN = fileURLToPath(new URL('../bin/uploader.js', import.meta.url));
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const PIPE_BYTES = 64 * 1024;

describe('what the uploader writes', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => scratch.remove());

  it('comes out whole on a pipe whose reader begins when all is done', async () => {
    for (let run = 0; run < 600; run++) scratch.write(`data/m/${run}/a.jsonl`, '{"pk":1,"score":1}\n');
    const args = [BIN, 'check', join(scratch.path, 'data'), '--json'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env: {} });
    let stderr = '';
    let checked: (() => void) | undefined;
    const allChecked = new Promise<void>((resolve) => {
      checked = resolve;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
      if (stderr.includes('m/99: ')) checked?.();
    });
    await allChecked;
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    const [code] = await once(child, 'close');
    expect(code).to.equal(0);
    const text = Buffer.concat(chunks).toString();
    expect(text.length).to.be.above(PIPE_BYTES);
    expect(JSON.parse(text).runs).to.have.length(600);
  });

  it('is JSON in each line of watch, with what the service says in any characters; a run that it drops is named', async () => {
    const server = await startIngestServer();
    const detail = 'No\u00ad\u202e\u001b[31m\u{e0001}\u2028.';
    server.intercept = (_request, response) => {
      problem(response, 403, 'No', detail);
      return true;
    };
    scratch.write('data/m/1/a.jsonl', scoreLines(10));
    scratch.write('data/m/1/_SUCCESS', '');
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: scratch.path };
    const watching = startUploader(['watch', join(scratch.path, 'data'), '--json'], env);
    let stderr = '';
    watching.process.stderr?.on('data', (text: string) => {
      stderr += text;
    });
    try {
      await waitUntil('it says what it drops', () =>
        stderr.includes('not pushed again until its _SUCCESS is'),
      );
    } finally {
      watching.process.kill('SIGTERM');
      await server.stop();
    }
    const { stdout } = await watching.finished;
    expect(stdout).to.match(/^[ -~\n]+$/);
    const [run, ...others] = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(run).to.include({ run: '1', exitCode: 77 });
    expect(run.error.detail).to.include(detail.slice(0, -1));
    expect(others).to.deep.equal([]);
  });

  it('is of runs only in watch, however it ends: stderr and the exit code say that', async () => {
    const env = {
      UPLOADER_URL: 'http://127.0.0.1:1',
      UPLOADER_TOKEN: 'x',
      UPLOADER_JSON: 'true',
      UPLOADER_RESULT_FILE: join(scratch.path, 'result.json'),
      UPLOADER_XCOM_DIR: scratch.path,
      HOME: scratch.path,
    };
    mkdirSync(join(scratch.path, 'data'));
    for (const [args, end, expected] of [
      [['data'], 'SIGTERM', 143],
      [['data'], 'SIGINT', 130],
      [['nowhere'], null, 66],
      [['data', '--poll', '0'], null, 2],
      [['data', '--nope', '--json'], null, 2],
      [[''], null, 2],
    ] as const) {
      const [dir, ...more] = args;
      const watching = startUploader(['watch', dir && join(scratch.path, dir), ...more], env);
      let seen = '';
      watching.process.stderr?.on('data', (text: string) => {
        seen += text;
      });
      if (end !== null) {
        await waitUntil('it watches', () => seen.includes('Watching '));
        watching.process.kill(end);
      }
      const { exitCode, stdout, stderr } = await watching.finished;
      expect({ exitCode, stdout }, args.join(' ')).to.deep.equal({ exitCode: expected, stdout: '' });
      expect(stderr).to.match(/^(uploader|error): /m);
    }
    expect(readdirSync(scratch.path).filter((name) => name.endsWith('.json'))).to.deep.equal([]);
  });

  it('does not load the library for terminals when there is no terminal', () => {
    scratch.write('data/a.jsonl', scoreLines(1));
    const hooks =
      "import { registerHooks } from 'node:module';" +
      'registerHooks({ resolve: (name, context, next) => (process._rawDebug(name), next(name, context)) });';
    // The sources, because the built program is one file.
    const args = [MAIN, 'check', join(scratch.path, 'data'), '--model', 'm', '--run', '1'];
    const imports = ['--import', `data:text/javascript,${encodeURIComponent(hooks)}`];
    const { status, stderr } = spawnSync(process.execPath, [...imports, ...args], { env: {} });
    expect(status).to.equal(0);
    expect(String(stderr)).to.include('commander').and.not.include('log-update');
  });

  it('is no success when it cannot be written', () => {
    const dir = join(scratch.path, 'data');
    scratch.write('data/a.jsonl', scoreLines(100));
    const args = [BIN, 'check', dir, '--model', 'm', '--run', '1'];
    for (const more of [[], ['--json']]) {
      const stdio = ['ignore', openSync('/dev/full', 'w'), 'pipe'] as const;
      const full = spawnSync(process.execPath, [...args, ...more], { stdio: [...stdio], env: {} });
      expect(full.status, String(full.stderr)).to.equal(75);
      expect(String(full.stderr)).to.include('could not be written').and.include('ENOSPC');
    }
    const kept = join(scratch.path, 'no such folder/result.json');
    const lost = spawnSync(process.execPath, [...args, '--result-file', kept], { env: {} });
    expect(lost.status).to.equal(75);
    expect(String(lost.stderr)).to.include('no such folder');
  });

  it('on stderr, or cannot be written there, changes neither the result nor the exit code', async () => {
    const server = await startIngestServer();
    const env = { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: scratch.path };
    scratch.write('good/a.jsonl', scoreLines(1000));
    scratch.write('bad/a.jsonl', 'no json\n');
    const named = ['--model', 'm', '--run', '1'];
    try {
      for (const [args, expected] of [
        [['push', join(scratch.path, 'good'), ...named], 0],
        [['push', join(scratch.path, 'good'), ...named, '--dry-run'], 0],
        [['check', join(scratch.path, 'good'), ...named], 0],
        [['check', join(scratch.path, 'bad'), ...named], 65],
        [['push', join(scratch.path, 'none'), ...named], 66],
        [['status', 'm', '1'], 0],
        [['push', '--help'], 0],
        [['push', '--nope'], 2],
      ] as const)
        for (const to of args[0] === 'push' ? ['/dev/full', 'closed'] : ['/dev/full']) {
          const stdio = ['ignore', 'pipe', to === 'closed' ? 'pipe' : openSync(to, 'w')] as const;
          const child = spawn(process.execPath, [BIN, ...args, '--json'], { stdio: [...stdio], env });
          child.stderr?.destroy();
          const chunks: Buffer[] = [];
          child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk));
          const [code] = await once(child, 'close');
          const stdout = Buffer.concat(chunks).toString();
          expect(code, `${args.join(' ')} ${to} ${stdout}`).to.equal(expected);
          if (args[1] !== '--help') expect(JSON.parse(lastLine(stdout))).to.include({ exitCode: expected });
        }
    } finally {
      await server.stop();
    }
  });

  it('says which Node it needs, and ends with 2, on one that is older', () => {
    const own = JSON.parse(readFileSync(join(BIN, '../../package.json'), 'utf8'));
    mkdirSync(join(scratch.path, 'package/bin'), { recursive: true });
    const copy = join(scratch.path, 'package/bin/uploader.js');
    copyFileSync(BIN, copy);
    writeFileSync(
      join(scratch.path, 'package/package.json'),
      JSON.stringify({ ...own, engines: { node: '>=99.1' } }),
    );
    const tooOld = spawnSync(process.execPath, [copy, 'push', '.', '--json'], { env: {} });
    expect(tooOld.status, String(tooOld.stderr)).to.equal(2);
    expect(String(tooOld.stderr)).to.include('uploader needs Node 99.1 or newer; this is Node 26');
    expect(JSON.parse(lastLine(String(tooOld.stdout)))).to.deep.include({ result: 'usage', exitCode: 2 });
  });

  it('does so on the Node 18 to 25 of this machine, where it has one', function () {
    const nodes = (process.env.PATH ?? '').split(':').map((folder) => join(folder, 'node'));
    const older = nodes.find((node) => {
      const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' });
      return /^v(18|2[0-5])\./.test(stdout ?? '');
    });
    if (older === undefined) return this.skip();
    for (const bin of [BIN, fileURLToPath(new URL('../../ingest-api/bin/ingest-api.js', import.meta.url))]) {
      const { status, stderr } = spawnSync(older, [bin, '--version'], { encoding: 'utf8' });
      expect(status).to.equal(2);
      expect(stderr).to.match(/needs Node 26\.10 or newer; this is Node (18|2[0-5])/);
    }
  });
});

describe('the exit code and the JSON', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
    scratch.write('good/a.jsonl', scoreLines(100));
    scratch.write('bad/a.jsonl', 'no JSON\n');
  });
  afterEach(() => scratch.remove());

  const one = ['--model', 'm', '--run', '1'];
  const unreachable = {
    UPLOADER_URL: 'http://127.0.0.1:9',
    UPLOADER_TOKEN: 't',
    UPLOADER_MAX_DURATION: '1s',
  };
  const COMMANDS: [number, string, string[], Record<string, string>][] = [
    [0, 'a check', ['check', 'good', ...one], {}],
    [65, 'bad lines', ['check', 'bad', ...one], {}],
    [66, 'a missing folder', ['check', 'missing', ...one], {}],
    [2, 'an unknown option', ['check', 'good', '--unknown'], {}],
    [2, 'a push without an address', ['push', 'good', ...one], {}],
    [75, 'a service that cannot be reached', ['push', 'good', ...one], unreachable],
  ];
  const PLACES: Array<[string, () => string]> = [
    ['missing', () => join(scratch.path, 'none')],
    ['a file', () => scratch.write('file', '')],
    ['below a file', () => join(scratch.write('file', ''), 'xcom')],
    [
      'a loop of links',
      () => {
        symlinkSync('loop', join(scratch.path, 'loop'));
        return join(scratch.path, 'loop/xcom');
      },
    ],
    ['a name that is too long', () => join(scratch.path, 'x'.repeat(300))],
    [
      'below a folder of somebody else',
      () => {
        mkdirSync(join(scratch.path, 'theirs/xcom'), { recursive: true });
        chmodSync(join(scratch.path, 'theirs'), 0);
        return join(scratch.path, 'theirs/xcom');
      },
    ],
  ];
  for (const [place, xcomOf] of PLACES)
    it(`are those of the command when the XCom folder is ${place}`, async () => {
      const xcom = xcomOf();
      const compare: (command: (typeof COMMANDS)[number]) => Promise<void> = async ([
        code,
        what,
        [command = '', dir = '', ...options],
        env,
      ]) => {
        const args = [command, join(scratch.path, dir), ...options, '--json'];
        const { exitCode, stdout, stderr } = await startUploader(
          args,
          { ...env, HOME: scratch.path, UPLOADER_XCOM_DIR: xcom },
          { boundByModes: canBeBoundByModes() },
        ).finished;
        expect(exitCode, `${what}: ${stderr}`).to.equal(code);
        expect(JSON.parse(lastLine(stdout)), what).to.include({ exitCode: code });
      };
      await Promise.all(COMMANDS.map(compare));
    });
});

describe('--result-file', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
    scratch.write('data/a.jsonl', scoreLines(100));
  });
  afterEach(() => scratch.remove());
  const check = (...args: string[]) => {
    const all = ['check', join(scratch.path, 'data'), '--model', 'm', '--run', '1', ...args];
    return startUploader(all, {}, { boundByModes: canBeBoundByModes() }).finished;
  };
  const resultIn = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
  const WHOLE = { result: 'valid', exitCode: 0 };

  it('is what follows the first =, and the last one counts', async () => {
    const [first, last] = ['dt=2026-10/r.json', 'dt=2026-11/a=b/r.json'].map((name) => {
      scratch.write(name, '');
      return join(scratch.path, name);
    });
    for (const args of [
      [`--result-file=${last}`],
      ['--result-file', `${first}`, `--result-file=${last}`],
      [`--result-file=${first}`, '--result-file', `${last}`],
    ]) {
      writeFileSync(`${last}`, '');
      expect((await check(...args)).exitCode, args.join(' ')).to.equal(0);
      expect(resultIn(`${last}`)).to.include(WHOLE);
      expect(readFileSync(`${first}`, 'utf8'), args.join(' ')).to.equal('');
    }
  });

  it('replaces a file, and leaves nothing beside it', async () => {
    const path = scratch.write('out/r.json', 'x'.repeat(100_000));
    const before = statSync(path).ino;
    expect((await check('--result-file', path)).exitCode).to.equal(0);
    expect(resultIn(path)).to.include(WHOLE);
    expect(statSync(path).ino).to.not.equal(before);
    expect(readdirSync(join(scratch.path, 'out'))).to.deep.equal(['r.json']);
  });

  it('is written in place where the file cannot be replaced', async () => {
    const longName = scratch.write(`out/${'x'.repeat(250)}`, 'x'.repeat(100_000));
    const inLocked = scratch.write('locked/r.json', 'x'.repeat(100_000));
    chmodSync(join(scratch.path, 'locked'), 0o555);
    for (const path of [longName, inLocked]) {
      const { exitCode, stderr } = await check('--result-file', path);
      expect(exitCode, stderr).to.equal(0);
      expect(resultIn(path)).to.include(WHOLE);
    }
    chmodSync(join(scratch.path, 'locked'), 0o755);
  });

  it('writes to a device, a link and a pipe, and replaces none of them', async () => {
    const target = scratch.write('target.json', '');
    const [device, link, pipe] = ['device', 'link', 'pipe'].map((name) => join(scratch.path, name));
    symlinkSync('/dev/null', `${device}`);
    symlinkSync(target, `${link}`);
    execFileSync('mkfifo', [`${pipe}`]);
    for (const path of [device, link]) {
      expect((await check('--result-file', `${path}`)).exitCode).to.equal(0);
      expect(lstatSync(`${path}`).isSymbolicLink()).to.equal(true);
    }
    expect(resultIn(target)).to.include(WHOLE);

    const reader = spawn('cat', [`${pipe}`]);
    let read = '';
    reader.stdout.setEncoding('utf8').on('data', (text: string) => {
      read += text;
    });
    const closed = once(reader, 'close');
    expect((await check('--result-file', `${pipe}`)).exitCode).to.equal(0);
    await closed;
    expect(JSON.parse(read)).to.include(WHOLE);
    expect(lstatSync(`${pipe}`).isFIFO()).to.equal(true);
  });

  it('that is a pipe which nobody reads is no success, and no hang', async () => {
    const pipe = join(scratch.path, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const { exitCode, stderr } = await check('--result-file', pipe);
    expect(exitCode).to.equal(75);
    expect(stderr).to.include(pipe);
  });
});

describe('a state folder', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
    scratch.write('data/m/1/a.jsonl', scoreLines(100));
  });
  afterEach(async () => {
    await server.stop();
    scratch.remove();
  });
  const push = (args: string[], env: Record<string, string>) =>
    startUploader(['push', join(scratch.path, 'data'), ...args], {
      UPLOADER_URL: server.url,
      UPLOADER_TOKEN: server.token,
      ...env,
    }).finished;

  it('that cannot be made is named: 2 when it was asked for, else a warning, and never a hang', async () => {
    execFileSync('ln', ['-s', '/nonexistent/folder', join(scratch.path, 'dangling')]);
    scratch.write('file', '');
    for (const dir of [
      '/proc/x/y',
      '/dev/null/x',
      join(scratch.path, 'file'),
      join(scratch.path, 'dangling'),
    ]) {
      const asked = await push(['--state-dir', dir], {});
      expect(asked.exitCode, dir).to.equal(2);
      expect(asked.stderr).to.include(`state folder ${dir} cannot be used`);
      const own = await push([], { XDG_STATE_HOME: dir });
      expect(own.exitCode, `${dir}: ${own.stderr}`).to.equal(0);
      expect(own.stderr).to.include(`state folder ${dir}/uploader cannot be used`);
    }
  });
});
