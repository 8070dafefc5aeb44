import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { installGitHooks } from './git-hooks.mjs';
import { rememberInstall, whyInstall } from './install-stamp.mjs';
import { runStep } from './run-step.mjs';
import { withSetupLock } from './setup-lock.mjs';
import { toolEnvironment } from './tool-environment.mjs';

/** Makes the checkout ready to run: packages, builds, git hooks. Costs about a second when nothing changed. */
export async function setUp(root) {
  await withSetupLock(root, async () => {
    const reason = whyInstall(root);
    if (reason !== undefined) {
      console.log(`setup: installing packages, because ${reason}`);
      await install(root);
      rememberInstall(root);
    }
    installGitHooks(root);
    await build(root);
  });
}

async function install(root) {
  const { packageManager, devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const args = [
    // A person's .npmrc may say no to every question of npx.
    '--yes',
    packageManager,
    'install',
    '--frozen-lockfile',
    '--reporter=append-only',
    // Packages will run on this Node, not on the one that runs the install.
    `--config.node-version=${devDependencies.node}`,
  ];
  await runStep('npx', args, {
    cwd: root,
    // CI: no questions asked. Without a terminal pnpm would refuse to replace an outdated node_modules.
    env: { ...process.env, CI: 'true' },
    stream: true,
    hint:
      'Check that the npm registry can be reached (npm ping). When package.json was changed by hand, run ' +
      '`npx pnpm install` once to bring pnpm-lock.yaml up to date. As a last resort remove node_modules.',
  });
}

async function build(root) {
  const turbo = join(root, 'node_modules/.bin/turbo');
  if (!existsSync(turbo))
    throw new Error(`${turbo} is missing after the install. Remove node_modules and retry.`);
  await runStep(turbo, ['run', 'build', '--output-logs=errors-only'], {
    cwd: root,
    env: toolEnvironment(root),
    hint: 'Repair the error above, which is in the source of a package.',
  });
}
