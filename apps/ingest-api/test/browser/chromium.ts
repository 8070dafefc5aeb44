import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Browser, chromium } from 'playwright-core';

const run = promisify(execFile);

const USUAL_PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const INSTALLED_WITHIN_MS = 240_000;

/**
 * A real Chromium: CHROMIUM_PATH, one of the usual places, or installed from Debian when we are root there.
 * Undefined, with a plain message, when there is none to be had: the tests that need it are skipped.
 */
export async function launchChromium(): Promise<Browser | undefined> {
  const executablePath = findChromium() ?? (await installChromium());
  if (executablePath === undefined) return undefined;
  return chromium.launch({
    executablePath,
    // Chromium's sandbox refuses root; the pages are our own.
    args: process.getuid?.() === 0 ? ['--no-sandbox', '--disable-dev-shm-usage'] : [],
  });
}

function findChromium(): string | undefined {
  const given = process.env.CHROMIUM_PATH;
  return [given ?? '', ...USUAL_PLACES].find((path) => path !== '' && existsSync(path));
}

async function installChromium(): Promise<string | undefined> {
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) {
    console.log('    No Chromium here: install one or set CHROMIUM_PATH, to test the status page.');
    return undefined;
  }
  console.log('    installing Chromium with apt-get, once');
  const options = {
    timeout: INSTALLED_WITHIN_MS,
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  };
  try {
    await run('apt-get', ['update', '-qq'], options);
    await run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium'], options);
  } catch (error) {
    console.log(`    Chromium could not be installed (${(error as Error).message.split('\n')[0]}).`);
  }
  return findChromium();
}
