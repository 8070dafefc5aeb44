import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { type Service, startTestSystem, type TestSystem } from '../../../e2e/support/test-system.ts';
import { createSlots } from '../src/send/context.ts';
import { INPUT_CASES, LINE_CASES } from './support/input-cases.ts';
import { lastLine, startUploader } from './support/run-uploader.ts';
import { makeScratch } from './support/scratch.ts';

type Told = {
  run: string;
  state?: string | null;
  rows?: number;
  error?: { code: string; detail: string } | null;
};

type Reject = { file: string; line: number; byte_offset: number; detail: string };

const goodLine = '{"pk":"good","score":1}\n';
/** `check` lists the first ten. */
const LINES_A_FILE = 10;
const lineRuns = Array.from({ length: Math.ceil(LINE_CASES.length / LINES_A_FILE) }, (_, index) => ({
  name: `lines-${index}`,
  cases: LINE_CASES.slice(index * LINES_A_FILE, (index + 1) * LINES_A_FILE),
}));

function writeCases(root: string): void {
  const write = (path: string, content: string | Buffer) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
  };
  for (const { name, files } of INPUT_CASES) {
    for (const [file, content] of Object.entries(files)) write(join(root, name, file), content);
  }
  for (const { name, cases } of lineRuns) {
    write(join(root, name, 'a.jsonl'), goodLine + cases.map(([line]) => `${line}\n`).join(''));
  }
}

describe('inputs as people produce them', () => {
  let scratch: ReturnType<typeof makeScratch>;
  /** What `check` reported of each run. */
  const checked = new Map<string, Told & { rejects?: { first: Reject[] } }>();
  before(() => {
    scratch = makeScratch();
    writeCases(join(scratch.path, 'm'));
  });
  after(() => scratch.remove());

  it('get from check a message that names the cause', async () => {
    const args = ['check', scratch.path, '--json'];
    const { exitCode, stdout, stderr } = await startUploader(args, { HOME: scratch.path }).finished;
    expect(exitCode, stderr).to.equal(66);
    for (const run of JSON.parse(lastLine(stdout)).runs) checked.set(run.run, run);
    for (const { name, exitCode, says } of INPUT_CASES) {
      const { rows, error, rejects } = checked.get(name) ?? {};
      const [first] = rejects?.first ?? [];
      const outcome = exitCode === 0 ? `${rows} rows` : (error?.detail ?? first?.detail ?? 'it has no rows');
      expect(outcome, name).to.include(says);
      if (exitCode === 0) expect([error, first], name).to.deep.equal([undefined, undefined]);
      else expect(error?.code ?? 'data', name).to.equal(exitCode === 66 ? 'source' : 'data');
    }
    for (const { name, cases } of lineRuns) {
      const details = checked.get(name)?.rejects?.first.map(({ detail }) => detail) ?? [];
      expect(details, name).to.have.length(cases.length);
      for (const [index, [line, says]] of cases.entries()) expect(details[index], line).to.include(says);
    }
  });

  it('get the exit code that is theirs, one line for each fact, and their name first', async () => {
    const twoAtATime = createSlots(2);
    const names = ['good', 'torn-gz', 'array-indented', 'csv', 'blank', 'lines-0', 'bz2-beside'];
    await Promise.all(
      names.map((name) =>
        twoAtATime(async () => {
          const args = ['check', join(scratch.path, 'm', name), '--model', 'm', '--run', name];
          const got = await startUploader(args, { HOME: scratch.path }).finished;
          const expected = INPUT_CASES.find((it) => it.name === name)?.exitCode ?? 65;
          expect(got.exitCode, `${name}: ${got.merged}`).to.equal(expected);
          for (const line of got.merged.trimEnd().split('\n'))
            expect(line).to.match(new RegExp(`^m/${name}: `));
          // A file of another format is one fact, however many lines it has.
          if (name === 'array-indented' || name === 'csv')
            expect(got.merged.match(/ The line: /g)).to.have.length(1);
        }),
      ),
    );
  });

  describe('pushed to the real service', () => {
    let system: TestSystem;
    let service: Service;
    before(async () => {
      system = await startTestSystem();
      service = await system.startService();
      system.startLoader();
    });
    after(() => system?.stop());

    it('get the same, each for itself, in one push of them all; a dry run agrees on the files', async () => {
      const dry = await system.runUploader(service.url, ['push', scratch.path, '--dry-run', '--json']);
      const { code, stdout, stderr } = await system.runUploader(service.url, [
        'push',
        scratch.path,
        '--json',
      ]);
      expect(code, stderr).to.equal(66);
      const pushed = new Map<string, Told>(
        JSON.parse(lastLine(stdout)).runs.map((run: Told) => [run.run, run]),
      );
      const planned = new Map<string, Told>(
        JSON.parse(lastLine(dry.stdout)).runs.map((run: Told) => [run.run, run]),
      );
      for (const { name, exitCode, says } of INPUT_CASES) {
        const { state, rows, error } = pushed.get(name) ?? {};
        const message = `${name}: ${state} ${error?.detail}`;
        if (exitCode === 0) expect([`${rows} rows`, error], message).to.deep.equal([says, null]);
        else expect(error?.detail, message).to.include(says);
        const codes = { 0: undefined, 65: error?.code, 66: 'source' };
        expect(error?.code, message).to.equal(codes[exitCode]);
        if (exitCode === 65) expect([state === 'failed', error?.code === 'data'], message).to.include(true);
        const isSource = planned.get(name)?.error?.code === 'source';
        expect(isSource, `${name} in a dry run`).to.equal(exitCode === 66);
      }
      for (const { name } of lineRuns) {
        const answer = await fetch(`${service.url}/v1/models/m/runs/${name}/rejects`, {
          headers: { Authorization: `Bearer ${system.token}` },
        });
        const rejects: Reject[] = (await answer.text())
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line));
        expect(rejects, name).to.deep.equal(checked.get(name)?.rejects?.first);
      }
    });
  });
});

describe('any file that is not on the pass-over list', () => {
  it('becomes rows, or ends its run with 66 and its name', async () => {
    const scratch = makeScratch();
    try {
      const stems = ['part-00000', 'b', 'ä ö', 'x.y', "it's", 'a%2Fb', 'UPPER', '~x', '#x#', 'x!', '日本'];
      const endings = [
        '',
        '.',
        '.jsonl',
        '.JSONL',
        '.ndjson',
        '.Json',
        '.jsonl.gz',
        '.jsonl.GZ',
        '.json.ZsT',
        '.gz',
      ];
      const others = [
        '.csv',
        '.jsonl.bz2',
        '.jsonl.gz.gz',
        '.jsonlx',
        '.jsonl~',
        '.jsonl.tmp2',
        '.json5',
        '.txt',
        '.tmp',
        '.PART',
      ];
      const names = stems.flatMap((stem) => [...endings, ...others].map((ending) => stem + ending));
      const { gzipSync, zstdCompressSync } = await import('node:zlib');
      const line = '{"pk":"1","score":1}\n';
      const data = (name: string) =>
        /\.gz$/i.test(name) ? gzipSync(line) : /\.zst$/i.test(name) ? zstdCompressSync(line) : line;
      for (const [index, name] of names.entries()) {
        mkdirSync(join(scratch.path, `m/${index}`), { recursive: true });
        writeFileSync(join(scratch.path, `m/${index}`, name), data(name));
        writeFileSync(join(scratch.path, `m/${index}`, 'other.jsonl'), '{"pk":"0","score":1}\n');
      }
      const { exitCode, stdout } = await startUploader(['check', scratch.path, '--json'], {}).finished;
      expect(exitCode).to.equal(66);
      const runs = new Map<string, Told>(
        JSON.parse(lastLine(stdout)).runs.map((run: Told) => [run.run, run]),
      );
      const seen = { rows: 0, named: 0, passedOver: 0 };
      for (const [index, name] of names.entries()) {
        const { rows, error } = runs.get(String(index)) ?? {};
        if (/\.(tmp|part)$/i.test(name)) {
          expect(rows, name).to.equal(1);
          seen.passedOver++;
        } else if (error) {
          expect(error.code, name).to.equal('source');
          expect(error.detail).to.include(`m/${index}: ${name}: `);
          seen.named++;
        } else {
          expect(rows, name).to.equal(2);
          seen.rows++;
        }
      }
      expect(seen).to.deep.equal({
        rows: 7 * stems.length,
        named: 11 * stems.length,
        passedOver: 2 * stems.length,
      });
    } finally {
      scratch.remove();
    }
  });
});
