import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { waitFor } from './support/programs.ts';

const LAB = fileURLToPath(new URL('../scripts/lab/main.ts', import.meta.url));

describe('npm run lab', () => {
  let home: string;
  let source: string;
  let env: NodeJS.ProcessEnv;

  before(async () => {
    // Closed to other users, as a home folder may be.
    home = await mkdtemp(join(tmpdir(), 'lab-test-'));
    source = join(home, 'source');
    env = { ...process.env, LAB_HOME: join(home, 'lab'), LAB_PORT: '0' };
    await mkdir(join(source, 'tiny/r1'), { recursive: true });
    await writeFile(join(source, 'tiny/r1/a.jsonl'), '{"pk":"a","score":1}\n{"pk":"b","score":"2.5"}\n');
  });

  after(() => rm(home, { recursive: true, force: true }));

  it('publishes the samples and leaves with 0, and the second time finds them there', async () => {
    const first = await lab('--exit');
    expect(first.code, first.output).to.equal(0);
    const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8');
    const shown = /<!-- lab -->\n\n```\n(.*?)\n```/s.exec(readme)?.[1];
    expect(first.output).to.include(shown);
    expect(shown).to.match(/churn +2026-11 +200,000/);

    const second = await lab('--exit');
    expect(second.code, second.output).to.equal(0);
    expect(second.output).to.contain('nothing to send');
    expect(existsSync(join(home, 'lab/lab.env'))).to.equal(false);
  });

  it('pushes to the lab that is up already, and that one stops in order at a signal', async () => {
    const up = spawn(process.execPath, [LAB, source], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [up.stdout, up.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    await waitFor('the lab to be up', () => output.includes('The lab is up'), 30_000);
    const labEnv = await readFile(join(home, 'lab/lab.env'), 'utf8');
    for (const name of ['UPLOADER_URL', 'UPLOADER_TOKEN', 'DATABASE_URL', 'STATUS_URL']) {
      expect(labEnv).to.match(new RegExp(`^export ${name}='.+'$`, 'm'));
    }
    expect((await stat(join(home, 'lab/lab.env'))).mode & 0o077).to.equal(0);

    const second = await lab(source);
    expect(second.code, second.output).to.equal(0);
    expect(second.output)
      .to.contain('a lab is already running')
      .and.to.match(/tiny +r1 +2 /);

    up.kill('SIGINT');
    const [code] = await once(up, 'close');
    expect(code).to.equal(0);
    expect(existsSync(join(home, 'lab/lab.env'))).to.equal(false);
  });

  it('leaves with the code of the uploader when the data is at fault', async () => {
    await mkdir(join(home, 'bad/tiny/r2'), { recursive: true });
    await writeFile(join(home, 'bad/tiny/r2/a.jsonl'), '{"pk":"a","score":1}\n{"pk":\n');
    const { code, output } = await lab(join(home, 'bad'), '--exit');
    expect(code, output).to.equal(65);
    expect(output).to.contain('a.jsonl:2');
  });

  function lab(...args: string[]): Promise<{ code: number | string; output: string }> {
    return new Promise((resolve) => {
      execFile(process.execPath, [LAB, ...args], { env }, (error, stdout, stderr) =>
        resolve({ code: error?.code ?? 0, output: stdout + stderr }),
      );
    });
  }
});
