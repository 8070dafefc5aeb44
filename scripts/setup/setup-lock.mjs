import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 200;
const SAY_EVERY_MS = 10_000;

/** Two set-ups of one checkout wait for each other. A lock whose process is gone is taken over. */
export async function withSetupLock(root, work) {
  const path = join(root, '.setup.lock');
  await take(path);
  try {
    await work();
  } finally {
    rmSync(path, { force: true });
  }
}

async function take(path) {
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = holderOf(path);
    if (holder !== undefined && !isAlive(holder)) rmSync(path, { force: true });
    else if (waitedMs % SAY_EVERY_MS === 0) {
      console.log(`setup: waiting for another set-up of this checkout to end (process ${holder}, ${path})`);
    }
    await delay(POLL_MS);
  }
}

function holderOf(path) {
  try {
    // Empty for the moment between its creation and its writing.
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
    // EPERM: it is there, and is another user's.
    return error.code === 'EPERM';
  }
}
