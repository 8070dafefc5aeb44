import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const ROOT = fileURLToPath(new URL('../', import.meta.url));

describe('The pre-commit hook', () => {
  let dir: string;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'pre-commit-test-'));
    symlinkSync(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
    for (const path of ['biome.json', 'scripts/git-hooks'])
      cpSync(join(ROOT, path), join(dir, path), { recursive: true });
    git('init', '--quiet');
    git('config', 'user.name', 'Test');
    git('config', 'user.email', 'test@example.org');
    git('config', 'core.hooksPath', 'scripts/git-hooks');
  });

  afterEach(() => rmSync(dir, { recursive: true }));

  it('formats what is staged, in the commit and in the working tree', () => {
    write('a.ts', 'export const a = {b:1}\n');
    git('add', 'a.ts');
    expect(commit()).to.equal(0);
    expect(git('show', 'HEAD:a.ts')).to.equal('export const a = { b: 1 };\n');
    expect(readFileSync(join(dir, 'a.ts'), 'utf8')).to.equal('export const a = { b: 1 };\n');
  });

  it('leaves parts that are not staged out of the commit, and as they are', () => {
    const lines = Array.from({ length: 9 }, (_, i) => `export const kept${i} = ${i};\n`).join('');
    write('a.ts', `export const a = {b:1}\n${lines}`);
    git('add', 'a.ts');
    write('a.ts', `export const a = {b:1}\n${lines}const   mine=1\n`);
    expect(commit()).to.equal(0);
    expect(git('show', 'HEAD:a.ts')).to.equal(`export const a = { b: 1 };\n${lines}`);
    expect(readFileSync(join(dir, 'a.ts'), 'utf8')).to.equal(
      `export const a = { b: 1 };\n${lines}const   mine=1\n`,
    );
  });

  it('refuses what the linter refuses', () => {
    write('a.ts', 'export function f(x: any) {\n  return x;\n}\n');
    git('add', 'a.ts');
    expect(commit()).to.equal(1);
  });

  function write(path: string, content: string): void {
    writeFileSync(join(dir, path), content);
  }

  function commit(): number | null {
    return spawnSync('git', ['commit', '--quiet', '-m', 'test'], {
      cwd: dir,
      stdio: 'ignore',
      env: cleanEnv(),
    }).status;
  }

  function git(...args: string[]): string {
    return execFileSync('git', args, { cwd: dir, encoding: 'utf8', env: cleanEnv() });
  }

  /** When the tests themselves run inside a git hook, git's variables point to the checkout. */
  function cleanEnv(): NodeJS.ProcessEnv {
    return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('GIT_')));
  }
});
