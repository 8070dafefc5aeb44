import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { runStep, toolEnvironment } from './steps.mjs';

const STAMP = 'node_modules/.setup-stamp.json';
const HOOKS_PATH = 'scripts/git-hooks';
const LOCK_POLL_MS = 200;
const SAY_EVERY_MS = 10_000;

/** Makes the checkout ready to run: packages, git hooks, builds. Takes about a second when nothing has changed. */
export async function setUp(root) {
  const lock = join(root, '.setup.lock');
  await takeLock(lock);
  try {
    const reason = whyInstall(root);
    if (reason !== undefined) {
      console.log(`setup: installing packages, because ${reason}`);
      await install(root);
      writeFileSync(join(root, STAMP), JSON.stringify(installDigests(root), null, 2));
    }
    installGitHooks(root);
    await build(root);
  } finally {
    rmSync(lock, { force: true });
  }
}

/** Waits while another setup of this checkout runs. Takes over the lock of a process that has ended. */
async function takeLock(path) {
  for (let waitedMs = 0; ; waitedMs += LOCK_POLL_MS) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = holderOf(path);
    if (holder !== undefined && !isAlive(holder)) rmSync(path, { force: true });
    else if (waitedMs % SAY_EVERY_MS === 0) {
      console.log(`setup: waiting for another setup of this checkout to end (process ${holder}, ${path})`);
    }
    await delay(LOCK_POLL_MS);
  }
}

function holderOf(path) {
  try {
    // The file is empty between its creation and the write.
    return Number.parseInt(readFileSync(path, 'utf8'), 10) || undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: the process exists and belongs to another user.
    return error.code === 'EPERM';
  }
}

/** The reason to install, as the end of a sentence; undefined when node_modules is up to date. */
function whyInstall(root) {
  if (!existsSync(join(root, 'node_modules/.modules.yaml'))) return 'node_modules is missing';
  if (!existsSync(join(root, 'node_modules/.bin/node'))) return 'node_modules has no Node 26';
  let stamp;
  try {
    stamp = JSON.parse(readFileSync(join(root, STAMP), 'utf8'));
  } catch {
    return 'the versions in node_modules are unknown';
  }
  const changed = Object.entries(installDigests(root)).find(([path, digest]) => stamp[path] !== digest);
  return changed && `${changed[0]} has changed`;
}

/** Of each file that an install depends on. Of the contents, because a checkout changes the times of all files. */
function installDigests(root) {
  const members = ['apps', 'packages'].flatMap((folder) =>
    readdirSync(join(root, folder)).map((name) => `${folder}/${name}/package.json`),
  );
  const paths = ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json', 'bench/package.json', ...members];
  const digestOf = (path) =>
    createHash('sha256')
      .update(readFileSync(join(root, path)))
      .digest('hex');
  return Object.fromEntries(
    paths.filter((path) => existsSync(join(root, path))).map((path) => [path, digestOf(path)]),
  );
}

async function install(root) {
  const { packageManager, devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const args = [
    // An .npmrc may make npx refuse to install without this.
    '--yes',
    packageManager,
    'install',
    '--frozen-lockfile',
    '--reporter=append-only',
    // The packages run on this Node, not on the one that runs the install.
    `--config.node-version=${devDependencies.node}`,
  ];
  await runStep('npx', args, {
    cwd: root,
    // CI makes pnpm ask nothing. Without it and without a terminal, pnpm refuses to replace an outdated node_modules.
    env: { ...process.env, CI: 'true' },
    stream: true,
    hint:
      'Check that the npm registry can be reached (npm ping). If you changed a package.json, run ' +
      '`npx pnpm install` once to update pnpm-lock.yaml. As a last resort remove node_modules.',
  });
}

/** Makes git use the committed hooks, unless another hooks folder is configured. */
function installGitHooks(root) {
  if (!existsSync(join(root, '.git'))) return;
  const git = (...args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  if (git('config', '--get', 'core.hooksPath').stdout?.trim()) return;
  if (git('config', 'core.hooksPath', HOOKS_PATH).status === 0) return;
  console.log(
    `setup: could not install the git hooks. To install them: git config core.hooksPath ${HOOKS_PATH}`,
  );
}

async function build(root) {
  const turbo = join(root, 'node_modules/.bin/turbo');
  if (!existsSync(turbo))
    throw new Error(`${turbo} is missing after the install. Remove node_modules and try again.`);
  await runStep(turbo, ['run', 'build', '--output-logs=errors-only'], {
    cwd: root,
    env: toolEnvironment(root),
    hint: 'Fix the error above in the source of the package.',
  });
}
