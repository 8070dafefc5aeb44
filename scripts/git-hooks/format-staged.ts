// Formats and lints the staged content, not the files of the working tree, which may contain changes that are not part
// of this commit. The formatted content replaces the staged content and is merged into the working tree.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = git('rev-parse', '--show-toplevel').trim();
process.chdir(root);

const staged = git('diff', '--cached', '--name-only', '--diff-filter=ACMR', '-z')
  .split('\0')
  .filter((path) => path !== '');
if (staged.length > 0) process.exitCode = formatAndLint(staged);

function formatAndLint(paths: string[]): number {
  const dir = mkdtempSync(join(tmpdir(), 'pre-commit-'));
  try {
    git('checkout-index', `--prefix=${dir}/`, '--', ...paths);
    const before = new Map(paths.map((path) => [path, readFileSync(join(dir, path), 'utf8')]));
    const biome = spawnSync(
      join(root, 'node_modules/.bin/biome'),
      ['check', '--write', '--no-errors-on-unmatched', `--config-path=${root}`, '--vcs-enabled=false', '.'],
      { cwd: dir, stdio: ['ignore', 'ignore', 'inherit'] },
    );
    for (const [path, content] of before) {
      const formatted = readFileSync(join(dir, path), 'utf8');
      if (formatted !== content) stageFormatted(path, content, formatted, dir);
    }
    if (biome.status !== 0)
      console.error('pre-commit: fix the errors above, stage the fixes, and commit again.');
    return biome.status ?? 1;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function stageFormatted(path: string, staged: string, formatted: string, dir: string): void {
  const mode = git('ls-files', '--stage', '--', path).slice(0, 6);
  const blob = execFileSync('git', ['hash-object', '-w', '--stdin'], { input: formatted, encoding: 'utf8' });
  git('update-index', '--cacheinfo', `${mode},${blob.trim()},${path}`);
  if (readFileSync(path, 'utf8') === staged) writeFileSync(path, formatted);
  else mergeIntoWorkingTree(path, staged, dir);
  console.error(`pre-commit: formatted ${path}`);
}

/** For a file with changes that are not staged. When these overlap with what was formatted, the file is not changed. */
function mergeIntoWorkingTree(path: string, staged: string, dir: string): void {
  const base = join(dir, '.base');
  writeFileSync(base, staged);
  const merged = spawnSync('git', ['merge-file', '-p', '--quiet', path, base, join(dir, path)], {
    encoding: 'utf8',
  });
  if (merged.status === 0) writeFileSync(path, merged.stdout);
}

function git(...args: string[]): string {
  return execFileSync('git', args, { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
}
