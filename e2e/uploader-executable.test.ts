import { execFile } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const UPLOADER = fileURLToPath(new URL('../apps/uploader/', import.meta.url));
const run = promisify(execFile);
/** A file of this size, whose lines a second thread counts: its program is in the bundle, too. */
const THREAD_FROM_BYTES = 64 * 1024 ** 2;
const ROWS = 20_000;

describe('The uploader as one file', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let service: Service;

  before(async () => {
    await run(process.execPath, [join(UPLOADER, 'scripts/build-executable.ts')]);
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
  });
  after(() => system?.stop());

  /** With nothing of this environment but `path`. */
  async function push(program: string, name: string, path: string): Promise<void> {
    const folder = join(system.workDir, name);
    const space = ' '.repeat(THREAD_FROM_BYTES / ROWS);
    const lines = Array.from({ length: ROWS }, (_, n) => `{ "pk": "${name} ${n}",${space}"score": "1" }\n`);
    const content = lines.join('');
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'a.jsonl'), content);
    const command = ['push', folder, '--model', name, '--run', '1', '--json'];
    const env = { PATH: path, HOME: folder, UPLOADER_URL: service.url, UPLOADER_TOKEN: system.token };
    const { stdout } = await run(program, command, { env });
    const [pushed] = JSON.parse(stdout).runs;
    expect(pushed).to.include({ state: 'published', rows: ROWS, bytesSent: content.length });
  }

  it('is an executable that pushes where there is no Node', async () => {
    const program = join(system.workDir, 'uploader');
    await copyFile(join(UPLOADER, 'build/uploader'), program);
    await push(program, 'executable', '');
  });

  it('needs no library that the manual does not name', async () => {
    const { stdout } = await run('ldd', [join(UPLOADER, 'build/uploader')]);
    const manual = await readFile(join(UPLOADER, '../../docs/uploader.md'), 'utf8');
    const needed = [...stdout.matchAll(/^\s+(lib\w+(?:\+\+)?)\.so/gm)].map(([, name = '']) => name);
    expect(needed).to.include('libc');
    // All of glibc's own.
    const others = needed.filter((name) => !/^lib(c|m|dl|pthread|rt)$/.test(name));
    for (const name of others) expect(manual).to.include(`\`${name}\``);
  });

  it('is an npm package that installs from its tarball alone', async () => {
    const prefix = join(system.workDir, 'installed');
    await mkdir(prefix);
    const [tarball = ''] = (await readdir(join(UPLOADER, 'build'))).filter((name) => name.endsWith('.tgz'));
    const install = ['install', '--offline', '--no-audit', '--no-fund', '--global', '--prefix', prefix];
    await run('npm', [...install, join(UPLOADER, 'build', tarball)]);
    await push(join(prefix, 'bin/uploader'), 'tarball', process.env.PATH ?? '');
  });
});
