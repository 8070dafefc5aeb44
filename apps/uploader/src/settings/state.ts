import { createHash, randomBytes } from 'node:crypto';
import {
  access,
  constants,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import * as z from 'zod';
import { UploaderError } from '../errors.ts';
import { pause } from '../http/exchange.ts';

/** The folder for hashes; null without a home folder: then no hashes are kept. */
export function findStateDir(asked: string | null, env: NodeJS.ProcessEnv): string | null {
  if (asked) return resolve(asked);
  if (env.XDG_STATE_HOME) return join(env.XDG_STATE_HOME, 'uploader');
  return env.HOME ? join(env.HOME, '.local', 'state', 'uploader') : null;
}

/**
 * Makes the state folder, once, at the start. A folder that the caller named and that cannot be used is a
 * fault of the configuration. The default folder only saves work: without it files are hashed again, and
 * `warn` is called.
 */
export async function openStateDir(
  asked: string | null,
  env: NodeJS.ProcessEnv,
  warn: (sentence: string) => void,
): Promise<string | null> {
  const dir = findStateDir(asked, env);
  if (dir === null) return null;
  try {
    await makeFolder(dir);
    await access(dir, constants.R_OK | constants.W_OK | constants.X_OK);
    return dir;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const what = `The state folder ${dir} cannot be used: ${reason}.`;
    if (asked)
      throw new UploaderError('usage', `${what} Name another one with --state-dir or UPLOADER_STATE_DIR.`);
    warn(`${what} Nothing is saved, and the next push hashes the files again.`);
    return null;
  }
}

/** Without the `recursive` of mkdir: it never returns where a parent exists and takes no folders (/proc). */
async function makeFolder(path: string, isLastTry = false): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT' || isLastTry) throw error;
    const parent = dirname(path);
    if (!(await isFolder(parent))) await makeFolder(parent); // else another process has just created it, perhaps
    await makeFolder(path, true);
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}

/** The path of one state file for the run of this folder. */
export function stateFilePath(stateDir: string, runFolder: string, ending: string): string {
  return join(stateDir, createHash('sha256').update(runFolder).digest('hex').slice(0, 32) + ending);
}

/** Replaces a file as a whole: a reader sees the old text or the new one, also after a crash. */
export async function replaceFile(path: string, text: string): Promise<void> {
  // The folder may have been deleted since the start; open() finds out.
  await mkdir(dirname(path), { mode: 0o700 }).catch(() => {});
  // Random, because process ids repeat on the hosts that share the folder.
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** A holder touches its lock this often; one that has not done so for a while counts as dead. */
const SIGN_OF_LIFE_EVERY_MS = 5_000;
const DEAD_AFTER_MS = 20_000;
const CHECK_EVERY_MS = 250;
const MOST_VANISHED = 100;

const holderSchema = z.object({ host: z.string(), pid: z.int() });
type Seen = { text: string; changedMs: number };

/**
 * Runs `task` while no other uploader with this state folder pushes the same folder: the second one waits,
 * and says so. The lock only avoids needless conflicts over the uploads. The service keeps two clients apart
 * by itself, so a lock that cannot be taken, or is lost, is not a fault.
 */
export async function withRunLock<T>(
  stateDir: string | null,
  runFolder: string,
  waiting: { signal: AbortSignal; say: (sentence: string) => void },
  task: () => Promise<T>,
): Promise<T> {
  if (stateDir === null) return task();
  const path = stateFilePath(stateDir, runFolder, '.lock');
  const mine = JSON.stringify({ host: hostname(), pid: process.pid });
  if (!(await take(path, mine, waiting))) return task();
  const signs = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => {});
  }, SIGN_OF_LIFE_EVERY_MS);
  try {
    return await task();
  } finally {
    clearInterval(signs);
    const seen = await see(path);
    if (seen !== null && seen !== 'unreadable' && seen.text === mine) await remove(path);
  }
}

/** Resolves to false when a lock is not possible in this folder. */
async function take(
  path: string,
  mine: string,
  { signal, say }: { signal: AbortSignal; say: (sentence: string) => void },
): Promise<boolean> {
  let vanished = 0;
  let last: Seen | null = null;
  let sameSinceMs = 0;
  for (;;) {
    try {
      await mkdir(dirname(path), { mode: 0o700 }).catch(() => {});
      await writeFile(path, mine, { flag: 'wx', mode: 0o600 });
      return true;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) return false;
    }
    const seen = await see(path);
    if (seen === 'unreadable') return false;
    if (seen === null) {
      // Removed just now; or a link to nothing, which stays for ever.
      vanished += 1;
      if (vanished > MOST_VANISHED) return false;
      await pause(CHECK_EVERY_MS / 10, signal);
      continue;
    }
    // Compared with itself and not with the clock: the folder may be on another host, and clocks jump.
    if (last?.text !== seen.text || last.changedMs !== seen.changedMs) sameSinceMs = performance.now();
    if (isDead(seen.text) || performance.now() - sameSinceMs > DEAD_AFTER_MS) {
      if (!(await remove(path))) return false;
      continue;
    }
    if (last === null) {
      say(`Another uploader (${describe(seen.text)}) pushes the same folder; waiting for it.`);
    }
    last = seen;
    await pause(CHECK_EVERY_MS, signal);
  }
}

async function see(path: string): Promise<Seen | null | 'unreadable'> {
  try {
    return { text: await readFile(path, 'utf8'), changedMs: (await stat(path)).mtimeMs };
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ENOENT' ? null : 'unreadable';
  }
}

async function remove(path: string): Promise<boolean> {
  try {
    await rm(path, { force: true });
    return true;
  } catch {
    return false;
  }
}

function holderOf(text: string): z.infer<typeof holderSchema> | null {
  try {
    return holderSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

/**
 * Only known for this host. A lock with the id of this process is from an earlier process with the same id.
 */
function isDead(text: string): boolean {
  const holder = holderOf(text);
  if (holder?.host !== hostname()) return false;
  if (holder.pid === process.pid) return true;
  try {
    process.kill(holder.pid, 0);
    return false;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ESRCH';
  }
}

function describe(text: string): string {
  const holder = holderOf(text);
  return holder ? `process ${holder.pid} on ${holder.host}` : 'unknown';
}
