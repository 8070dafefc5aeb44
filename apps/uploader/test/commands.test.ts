import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect } from 'chai';
import { startTcpProxy } from '../../../e2e/support/proxies.ts';
import { writeScoreFile } from '../../../e2e/support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from '../../../e2e/support/test-system.ts';
import { lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch } from './support/scratch.ts';
import { waitUntil } from './support/wait-until.ts';

describe('uploader check', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => scratch.remove());
  const check = (...args: string[]) =>
    startUploader(['check', join(scratch.path, 'data'), ...args], { HOME: scratch.path }).finished;

  it('ends with 0 when no line would be rejected, and needs neither address nor token', async () => {
    scratch.write('data/churn/1/a.jsonl', '{"pk":"1","score":1}\n\n{"pk":"2","score":"2"}');
    const { exitCode, stdout } = await check();
    expect(exitCode).to.equal(0);
    expect(stdout).to.match(/^churn\/1: no line would be rejected, 2 rows; 1 file, 44 bytes, 3 lines/);
  });

  it('checks the attributes that a contract declares', async () => {
    const attributes = [{ name: 'decile', type: 'integer', required: true, max: 10 }];
    scratch.write(
      'data/churn/1/a.jsonl',
      '{"pk":"1","score":1,"decile":11}\n{"pk":"2","score":1,"decile":1}\n{}\n',
    );
    for (const json of [{ attributes }, { model: 'churn', contract: { attributes } }]) {
      const { exitCode, stdout } = await check(
        '--contract',
        scratch.write('churn.json', JSON.stringify(json)),
      );
      expect(exitCode).to.equal(65);
      expect(stdout).to.include('2 lines would be rejected (1 invalid_attribute, 1 missing_pk)');
    }
    const wrong = await check('--contract', scratch.write('wrong.json', '{"attributes":[{"name":"a"}]}'));
    expect(wrong.exitCode).to.equal(2);
    expect(wrong.stderr).to.match(/wrong\.json is not a contract .*attributes: 0: type: /);
    expect((await check('--contract', join(scratch.path, 'absent.json'))).exitCode).to.equal(2);
    scratch.write('data/risk/1/a.jsonl', '{"pk":"1","score":1}\n');
    const two = await check('--contract', scratch.write('churn.json', '{}'));
    expect(two.exitCode).to.equal(2);
    expect(two.stderr).to.include('contract of one model, and the runs here are of churn, risk');
  });

  it('prints its result as JSON when only the config file asks for it', async () => {
    scratch.write('data/churn/1/a.jsonl', '{"pk":"1","score":1}\n');
    const config = scratch.write('config.json', '{"json": true}');
    const { exitCode, stdout } = await check('--config', config);
    expect(exitCode).to.equal(0);
    expect(JSON.parse(stdout)).to.include({ result: 'valid', exitCode: 0 });
  });

  it('ends with 65 and says file, line and byte of what would be rejected, and how much more there is', async () => {
    const bad = '{"pk":12,"score":}\n'.repeat(12);
    scratch.write('data/churn/1/a.jsonl', `{"pk":"1","score":1}\n${bad}`);
    scratch.write('data/fraud/1/a.jsonl', '{"pk":"1","score":1}\n');
    const { exitCode, stdout, stderr } = await check('--json');
    expect(exitCode).to.equal(65);
    expect(stderr)
      .to.match(/^churn\/1: a\.jsonl:2 \(byte \d+\) invalid_json: .* The same in line 3, 4, /m)
      .and.include('churn/1: 12 bad lines in all (12 invalid_json).');
    expect(stderr).to.match(/^1 with bad lines, 1 without bad lines; exit 65$/m);
    expect(stderr).to.include('12 lines would be rejected (12 invalid_json)');
    const result = JSON.parse(stdout);
    expect(result).to.include({ result: 'bad_data', exitCode: 65 });
    expect(result.runs[0]).to.deep.include({ lines: 13, rows: 1, blank: 0 });
    expect(result.runs[0].rejects).to.deep.include({ total: 12, byCode: { invalid_json: 12 } });
    expect(result.runs[1].rejects.total).to.equal(0);
  });

  it('reads compressed files, and says when one is torn', async () => {
    const text = Buffer.from('{"pk":"1","score":1}\nno json\n');
    mkdirSync(join(scratch.path, 'data/churn/1'), { recursive: true });
    writeFileSync(join(scratch.path, 'data/churn/1/a.jsonl.gz'), gzipSync(text));
    writeFileSync(join(scratch.path, 'data/churn/1/b.jsonl.zst'), zstdCompressSync(text));
    const { exitCode, stdout } = await check('--json');
    expect(exitCode).to.equal(65);
    expect(JSON.parse(stdout).runs[0]).to.deep.include({ lines: 4, rows: 2 });
    writeFileSync(join(scratch.path, 'data/churn/1/a.jsonl.gz'), gzipSync(text).subarray(0, 20));
    const torn = await check();
    expect(torn.exitCode).to.equal(65);
    expect(torn.stdout).to.include('a.jsonl.gz').and.include('cannot be decompressed');
  });

  it('refuses a compressed file of two members or frames that is cut anywhere', async () => {
    const lines = (first: number) =>
      Array.from({ length: 9 }, (_, n) => `{"pk":${first + n},"score":1}\n`).join('');
    const expected: Record<string, string> = {};
    for (const [ending, compress] of [
      ['gz', gzipSync],
      ['zst', zstdCompressSync],
    ] as const) {
      const first = compress(lines(0));
      const whole = Buffer.concat([first, compress(lines(100))]);
      for (let bytes = 0; bytes <= whole.length; bytes++) {
        const run = `${ending}-${bytes}`;
        mkdirSync(join(scratch.path, 'data/m', run), { recursive: true });
        writeFileSync(join(scratch.path, 'data/m', run, `a.jsonl.${ending}`), whole.subarray(0, bytes));
        // Cut between the two it is a whole file: only hash and line count tell it from the longer one.
        expected[run] = bytes === whole.length ? '18 rows' : bytes === first.length ? '9 rows' : 'data';
      }
    }
    const { exitCode, stdout } = await check('--json');
    expect(exitCode).to.equal(65);
    const found: Record<string, string> = {};
    for (const { run, rows, error } of JSON.parse(stdout).runs) found[run] = error?.code ?? `${rows} rows`;
    expect(found).to.deep.equal(expected);
  });

  it('ends with 65 when there is no row at all, and with 66 when there is no file', async () => {
    scratch.write('data/churn/1/a.jsonl', '\n');
    expect((await check()).exitCode).to.equal(65);
    rmSync(join(scratch.path, 'data/churn/1/a.jsonl'));
    expect((await check()).exitCode).to.equal(66);
  });
});

describe('the uploader, to the real service,', () => {
  let system: TestSystem;
  let service: Service;
  let folder = 0;
  let dir: string;

  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
  });
  after(() => system.stop());
  beforeEach(() => {
    folder += 1;
    dir = join(system.workDir, `data-${folder}`);
    mkdirSync(dir);
  });

  const run = (args: string[], env: Record<string, string> = {}) =>
    system.runUploader(service.url, args, env);

  it('says in a dry run what it would send, and sends nothing', async () => {
    const { bytes, path } = await writeScoreFile(join(dir, 'dry/1/a.jsonl'), 1000, folder);
    const before = await run(['push', dir, '--dry-run', '--json']);
    expect(before.code, before.stderr).to.equal(0);
    const planned = { newRevision: true, wouldSendBytes: bytes, lines: 1000, now: null };
    expect(JSON.parse(before.stdout).runs[0]).to.deep.include(planned);
    expect(await system.query(`SELECT FROM ingest.run_revision WHERE model = 'dry'`)).to.deep.equal([]);

    await run(['push', dir]);
    const after = await run(['push', dir, '--dry-run']);
    expect(after.stdout).to.include('is revision 1, published; at most 0 bytes to send');
    const more = '{"pk":"one more","score":1}\n';
    writeFileSync(join(dir, 'dry/1/b.jsonl'), more);
    const toSend = async () => JSON.parse((await run(['push', dir, '--dry-run', '--json'])).stdout).runs[0];
    expect(await toSend()).to.deep.include({ newRevision: true, wouldSendBytes: more.length });
    // As retention does: the files of a loaded run are no longer needed.
    await system.query(`UPDATE ingest.upload SET removed_at = now() WHERE model = 'dry'`);
    expect(await toSend()).to.deep.include({ newRevision: true, wouldSendBytes: more.length + bytes });
    rmSync(join(dir, 'dry/1/b.jsonl'));
    expect(await toSend()).to.deep.include({ newRevision: false, wouldSendBytes: 0 });
    appendFileSync(path, more);
    expect((await run(['push', dir, '--dry-run'])).stdout).to.include('would become revision 2');
  });

  it('sends compressed files as they are, and counts the lines of their text', async () => {
    const text = (first: number) =>
      Array.from({ length: 1000 }, (_, index) => `{"pk":"${first + index}","score":${index}}\n`).join('');
    mkdirSync(join(dir, 'packed/1'), { recursive: true });
    writeFileSync(join(dir, 'packed/1/a.jsonl.gz'), gzipSync(text(0)));
    writeFileSync(join(dir, 'packed/1/b.jsonl.zst'), zstdCompressSync(text(1000)));
    writeFileSync(join(dir, 'packed/1/c.jsonl'), text(2000));
    const { code, stdout, stderr } = await run(['push', dir, '--json']);
    expect(code, stderr).to.equal(0);
    expect(JSON.parse(stdout).runs[0]).to.include({ state: 'published', rows: 3000 });
    writeFileSync(join(dir, 'packed/1/a.jsonl.gz'), 'no gzip at all');
    const torn = await run(['push', dir]);
    expect(torn.code).to.equal(65);
    expect(torn.stdout).to.include('a.jsonl.gz');
  });

  it('sends no faster than --bwlimit, all transfers together', async () => {
    for (const name of ['a', 'b', 'c']) {
      await writeScoreFile(join(dir, `slow/1/${name}.jsonl`), 8000, folder * 10 + name.charCodeAt(0));
    }
    const { code, stdout, stderr } = await run(['push', dir, '--bwlimit', '400kB', '--json']);
    expect(code, stderr).to.equal(0);
    const { bytesSent, seconds } = JSON.parse(stdout).runs[0];
    expect(bytesSent / seconds).to.be.lessThan(480_000);
  });

  it('writes its result into --result-file, and where Airflow looks for it', async () => {
    await writeScoreFile(join(dir, 'results/1/a.jsonl'), 10, folder);
    const file = join(dir, 'result.json');
    const xcom = join(dir, 'xcom');
    mkdirSync(xcom);
    const { code, stdout } = await run(['push', dir, '--run', 'none', '--result-file', file], {
      UPLOADER_XCOM_DIR: xcom,
    });
    expect(code).to.equal(66);
    expect(stdout).to.not.include('{');
    for (const path of [file, join(xcom, 'return.json')]) {
      expect(JSON.parse(readFileSync(path, 'utf8'))).to.include({ exitCode: 66, result: 'source' });
    }
  });

  it('shows one run, with an exit code that says its state', async () => {
    const early = await run(['status', 'shown', '1']);
    expect(early.code, early.stderr).to.equal(75);
    const waiting = system.startUploader(service.url, ['status', 'shown', '1', '--wait', '--json']);
    await writeScoreFile(join(dir, 'shown/1/a.jsonl'), 1234, folder);
    expect((await run(['push', dir])).code).to.equal(0);
    const waited = await waiting.ended;
    expect(waited.code, waited.stderr).to.equal(0);
    expect(JSON.parse(waited.stdout)).to.include({ result: 'published' });
    const { code, stdout } = await run(['status', 'shown', '1']);
    expect(code).to.equal(0);
    expect(stdout).to.match(
      /^shown\/1: revision 1 is published\n {2}1 of 1 files, .*\n {2}readers of scores.shown see this revision\n {2}1,234 rows/,
    );
  });

  it('says what readers see: a run behind a later one is superseded, named, and 65 where it must be shown', async () => {
    await writeScoreFile(join(dir, 'seen/2026-12/a.jsonl'), 12, folder);
    await writeScoreFile(join(dir, 'seen/2026-10/a.jsonl'), 10, folder);
    const both = await run(['push', dir, '--json']);
    expect(both.code, both.stderr).to.equal(0);
    const word = (text: string) => JSON.parse(text.trim().split('\n').at(-1) ?? '');
    expect(word(both.stdout), 'the latest of them is shown').to.include({ result: 'published' });
    await writeScoreFile(join(dir, 'seen/2026-11/a.jsonl'), 11, folder);
    const only = ['push', join(dir, 'seen/2026-11'), '--model', 'seen', '--run', '2026-11'];
    const behind = await run([...only, '--json']);
    expect(behind.code, behind.stderr).to.equal(0);
    const sentence =
      'not shown: readers of scores.seen see 2026-12 (as of 2026-12-01), which is later; to show this one: uploader publish seen 2026-11';
    expect(behind.stderr).to.contain(`seen/2026-11: ${sentence}`);
    const { result, runs } = word(behind.stdout);
    expect(result).to.equal('superseded');
    expect(runs[0]).to.deep.include({ result: 'superseded', state: 'superseded', error: null });
    expect(runs[0].shown).to.include({ run: '2026-12', revision: 1 });
    expect(runs[0].notShown).to.contain(sentence);
    const required = await run([...only, '--json', '--require-shown']);
    expect(required.code).to.equal(65);
    expect(word(required.stdout).runs[0].error).to.include({ code: 'not_shown' });
    const asked = await run(['status', 'seen', '2026-11']);
    expect([asked.code, asked.stdout]).to.satisfy(
      ([code, text]: [number, string]) => code === 0 && text.includes(sentence),
    );
    expect((await run(['status', 'seen', '2026-11', '--require-shown'])).code).to.equal(65);
    expect((await run(['status', 'seen', '2026-12', '--require-shown'])).code).to.equal(0);
    expect((await run(['status', 'seen'])).stdout).to.match(/2026-11 +1 +superseded +2026-12 /);
    const contradiction = await run([...only, '--require-shown', '--no-wait']);
    expect(contradiction.code, contradiction.stderr).to.equal(2);
  });

  it('waits while another one pushes the same folder, and takes over from one that was killed', async () => {
    const { bytes } = await writeScoreFile(join(dir, 'twice/1/a.jsonl'), 100_000, folder);
    const proxy = await startTcpProxy(service.port);
    try {
      const first = system.startUploader(proxy.url, ['push', dir]);
      await waitUntil('the first one sends', () => proxy.sentBytes() > bytes / 10);
      proxy.stall();
      const second = system.startUploader(service.url, ['push', dir, '--json']);
      await waitUntil('the second one waits', () => second.stderr().includes('waiting for it'));
      expect(second.stderr()).to.include(`process ${first.pid} on`);
      await first.kill('SIGKILL');
      const { code, stdout, stderr } = await second.ended;
      expect(code, stderr).to.equal(0);
      expect(JSON.parse(stdout).runs[0].state).to.equal('published');
    } finally {
      await proxy.stop();
    }
  });

  it('watches: pushes each run once when its marker appears, over a restart, until it is stopped', async () => {
    const complete = (name: string) => writeFileSync(join(dir, name, '_SUCCESS'), '');
    await writeScoreFile(join(dir, 'watched/1/a.jsonl'), 100, folder);
    await writeScoreFile(join(dir, 'watched/2/a.jsonl'), 100, folder + 1000);
    const watching = system.startUploader(service.url, ['watch', dir, '--json']);
    await waitUntil('it watches', () => watching.stderr().includes('Watching'));
    complete('watched/1');
    const lines = (text: string) => text.split('\n').filter((line) => line !== '');
    await waitUntil('run 1 is published', () => lines(watching.stdout()).length === 1, 30_000);
    expect(JSON.parse(watching.stdout())).to.include({ run: '1', state: 'published', exitCode: 0 });
    // The steps of the run are progress, which is for stderr.
    expect(watching.stderr())
      .to.match(/^watched\/1: revision 1, 1 file, .* to send$/m)
      .and.include('watched/1: queued');
    const stopped = await watching.kill('SIGTERM');
    expect(stopped.code).to.equal(143);

    await writeScoreFile(join(dir, 'watched/3/a.jsonl'), 100, folder + 2000);
    complete('watched/3');
    const again = system.startUploader(service.url, ['watch', dir]);
    await waitUntil('run 3 is published', () => again.stdout().includes('watched/3'), 30_000);
    // A marker that is written again asks for another push; run 2 has none, and run 1 was done before.
    appendFileSync(join(dir, 'watched/1/a.jsonl'), '{"pk":"late","score":1}\n');
    complete('watched/1');
    const later = new Date(Date.now() + 5000);
    utimesSync(join(dir, 'watched/1/_SUCCESS'), later, later);
    await waitUntil('run 1 has a revision 2', () => again.stdout().includes('watched/1: revision 2'), 30_000);
    await again.kill('SIGINT');
    expect(lines(again.stdout())).to.have.length(2);
    const runs = await system.query<{ run_key: string }>(
      `SELECT DISTINCT run_key FROM ingest.run_revision WHERE model = 'watched' ORDER BY 1`,
    );
    expect(runs.map(({ run_key }) => run_key)).to.deep.equal(['1', '3']);
  });

  it('continues to watch when a run has bad lines, and reports it once', async () => {
    mkdirSync(join(dir, 'bad/1'), { recursive: true });
    writeFileSync(join(dir, 'bad/1/a.jsonl'), 'no json\n');
    writeFileSync(join(dir, 'bad/1/_SUCCESS'), '');
    const watching = system.startUploader(service.url, ['watch', dir, '--json']);
    await waitUntil('the run has failed', () => watching.stdout().includes('"exitCode":65'), 30_000);
    await watching.kill('SIGTERM');
    const again = system.startUploader(service.url, ['watch', dir, '--json']);
    await writeScoreFile(join(dir, 'bad/2/a.jsonl'), 10, folder);
    writeFileSync(join(dir, 'bad/2/_SUCCESS'), '');
    await waitUntil('the next run is published', () => again.stdout().includes('"exitCode":0'), 30_000);
    await again.kill('SIGTERM');
    expect(again.stdout()).to.not.include('"exitCode":65');
  });

  it('watches on when a run holds what is no data, and pushes it when that is gone and the marker is written again', async () => {
    await writeScoreFile(join(dir, 'stray/1/a.jsonl'), 10, folder);
    writeFileSync(join(dir, 'stray/1/b.jsonl.bz2'), 'BZh9');
    writeFileSync(join(dir, 'stray/1/c.csv'), 'pk,score\n');
    writeFileSync(join(dir, 'stray/1/_SUCCESS'), '');
    const watching = system.startUploader(service.url, ['watch', dir, '--json', '--ignore', '*.csv']);
    await waitUntil('the run is refused', () => watching.stdout().includes('"exitCode":66'), 30_000);
    expect(watching.stdout()).to.include('stray/1: b.jsonl.bz2').and.not.include('c.csv');
    expect(watching.stderr()).to.include('stray/1: Left out by --ignore: stray/1/c.csv');
    rmSync(join(dir, 'stray/1/b.jsonl.bz2'));
    const later = new Date(Date.now() + 5000);
    utimesSync(join(dir, 'stray/1/_SUCCESS'), later, later);
    await waitUntil('the run is published', () => watching.stdout().includes('"exitCode":0'), 30_000);
    await watching.kill('SIGTERM');
  });

  it('teaches by example, and names the option that was meant', async () => {
    for (const command of ['push', 'check', 'watch', 'status', 'publish', 'retry', 'withdraw']) {
      const { code, stdout } = await run([command, '--help']);
      expect(code).to.equal(0);
      expect(stdout).to.match(/^ {2}uploader /m);
    }
    const { code, stderr } = await run(['watch', dir, '--tranfers', '3']);
    expect(code).to.equal(2);
    expect(stderr).to.include('--transfers');
    expect(lastLine((await run(['publish', 'm', 'r', '--json'])).stdout)).to.include('--reason');
    expect(existsSync(join(dir, '_SUCCESS'))).to.equal(false);
  });
});
