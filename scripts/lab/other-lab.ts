import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type LabEnv, readLabEnv, removeLabEnv } from './lab-env.ts';
import { LabFailure } from './lab-failure.ts';

const STARTS_WITHIN_MS = 120_000;
const POLL_MS = 200;

/**
 * The lab that is up, or just starting, in this LAB_HOME. Undefined when there is none, and then this
 * process has become the one (`lab.pid`), until `leaveHome`.
 */
export async function otherLab(home: string): Promise<{ env: LabEnv } | undefined> {
  const deadlineMs = Date.now() + STARTS_WITHIN_MS;
  for (;;) {
    if (await becomeTheLab(home)) return undefined;
    const env = await readLabEnv(home);
    if (env !== undefined && (await answers(env))) return { env };
    if (Date.now() > deadlineMs) {
      throw new LabFailure(
        `Process ${await holderOf(home)} holds ${home}, but its service does not answer. End it, then try again.`,
      );
    }
    await delay(POLL_MS);
  }
}

export async function leaveHome(home: string): Promise<void> {
  await removeLabEnv(home);
  await rm(pidFileIn(home), { force: true });
}

async function becomeTheLab(home: string): Promise<boolean> {
  const holder = await holderOf(home);
  // What a killed lab has left behind.
  if (holder !== undefined && !(await isLab(holder))) await leaveHome(home);
  return writeFile(pidFileIn(home), String(process.pid), { flag: 'wx' }).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return false;
      throw error;
    },
  );
}

async function holderOf(home: string): Promise<number | undefined> {
  const text = await readFile(pidFileIn(home), 'utf8').catch(() => '');
  return Number.parseInt(text, 10) || undefined;
}

/** A process id may be given to another program after a restart; /proc, where there is one, can tell. */
async function isLab(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  return commandLine?.includes('lab/main.ts') ?? true;
}

async function answers(env: LabEnv): Promise<boolean> {
  return fetch(new URL('/readyz', env.uploaderUrl), { signal: AbortSignal.timeout(2_000) }).then(
    (response) => response.ok,
    () => false,
  );
}

function pidFileIn(home: string): string {
  return join(home, 'lab.pid');
}
