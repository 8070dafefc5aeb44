import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const HOOKS_PATH = 'scripts/git-hooks';

/** Points git to the committed hooks. A person who set another hooks folder keeps it. */
export function installGitHooks(root) {
  if (!existsSync(join(root, '.git'))) return;
  const current = git(root, 'config', '--get', 'core.hooksPath');
  if (current.stdout?.trim()) return;
  const done = git(root, 'config', 'core.hooksPath', HOOKS_PATH);
  if (done.status !== 0) {
    console.log(`setup: the git hooks were not installed; by hand: git config core.hooksPath ${HOOKS_PATH}`);
  }
}

function git(root, ...args) {
  return spawnSync('git', args, { cwd: root, encoding: 'utf8' });
}
