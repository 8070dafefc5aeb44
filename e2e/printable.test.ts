import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { RunningProgram } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

/** What moves a cursor, changes colours or turns the direction of writing: C0 but for line breaks, C1, bidirectional. */
const UNSAFE = /(?!\n)[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;
const EVIL = '\u001b[31m\u009b2J\u202egnp.exe\u2066\u0007\u007f';

describe('what a person is shown of what a client has said', () => {
  let system: TestSystem;
  let service: Service;
  let loader: RunningProgram;
  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    loader = system.startLoader();
  });
  after(() => system.stop());

  const line = (pk: unknown, more: object = {}) => `${JSON.stringify({ pk, score: 1, ...more })}\n`;

  async function push(name: string, files: Record<string, string>, ...flags: string[]) {
    const dir = join(system.workDir, name);
    await mkdir(dir, { recursive: true });
    for (const [file, content] of Object.entries(files)) await writeFile(join(dir, file), content);
    const ending = await system.runUploader(service.url, [
      'push',
      dir,
      '--model',
      'shown',
      '--run',
      name,
      ...flags,
    ]);
    expect(`${ending.stdout}${ending.stderr}`, name).not.to.match(UNSAFE);
    return ending;
  }

  /** Every answer about the run, as it is sent. */
  async function answersOf(run: string): Promise<string> {
    const paths = ['', '/history', '/rejects', '/files'].map((part) => `/v1/models/shown/runs/${run}${part}`);
    const texts = [...paths, '/v1/runs', '/v1/status'].map(async (path) => {
      const answer = await fetch(`${service.url}${path}`, {
        headers: { authorization: `Bearer ${system.token}` },
      });
      return answer.text();
    });
    return (await Promise.all(texts)).join('\n');
  }

  it('holds no control character, from keys, lines, names of files, run keys and reasons', async () => {
    const cases: [name: string, files: Record<string, string>, code: number, flags?: string[]][] = [
      ['duplicates', { 'a.jsonl': line(EVIL) + line(EVIL) }, 65],
      ['line', { 'a.jsonl': `${line('1')}{"pk":"2","score":"${EVIL}"}\n` }, 65],
      ['pk', { 'a.jsonl': `${line('1')}{"pk":{"${EVIL}":1},"score":1}\n` }, 65],
      ['json', { 'a.jsonl': `${line('1')}{"pk" ${EVIL}}\n`, 'b.jsonl': line('2') }, 65],
      ['ext', { [`${EVIL}.csv`]: 'x', 'a.jsonl': line('1') }, 66],
      ['file', { [`${EVIL}.jsonl`]: line('1') }, 66],
      ['attributes', { 'a.jsonl': line('1', { note: EVIL }) }, 0],
    ];
    for (const [name, files, code] of cases) {
      for (const flags of [[], ['--json']]) {
        const ending = await push(name, files, ...flags);
        expect(ending.code, `${name}: ${ending.stderr}`).to.equal(code);
      }
      if (name !== 'ext' && name !== 'file') expect(await answersOf(name), name).not.to.match(UNSAFE);
    }
    const run = await system.runUploader(service.url, [
      'push',
      join(system.workDir, 'attributes'),
      '--model',
      'shown',
      '--run',
      EVIL,
    ]);
    expect(run.code).to.equal(2);
    expect(`${run.stdout}${run.stderr}`).not.to.match(UNSAFE);
    const reason = await system.runUploader(service.url, ['retry', 'shown', 'duplicates', '--reason', EVIL]);
    expect(reason.code).to.not.equal(0);
    expect(`${reason.stdout}${reason.stderr}`).not.to.match(UNSAFE);
  });

  it('holds none in the logs of service and loader either', () => {
    expect(service.stdout() + service.stderr()).not.to.match(UNSAFE);
    expect(loader.stdout() + loader.stderr()).not.to.match(UNSAFE);
    expect(service.stdout().length).to.be.greaterThan(1_000);
  });
});
